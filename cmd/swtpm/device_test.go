package main

import (
	"testing"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestDeviceNotServed checks that a TPM that must not be served gets no device of CUSE. Without the
// check the test ends with a panic, because there is no device to create.
func TestDeviceNotServed(t *testing.T) {
	engine := libtpms.Engine()
	if err := engine.Choose(tpm.V20); err != nil {
		t.Fatal(err)
	}
	log, err := daemon.OpenLog(daemon.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e := &emulator{cfg: &config.Config{TPM: tpm.V20}, channels: &channels{}, log: log}
	e.cfg.Flags.Startup = config.StartupDeactivated
	if e.tpm, err = emul.New(t.Context(), engine, emul.Options{Version: tpm.V20}); err != nil {
		t.Fatal(err)
	}
	if serves, err := e.startDevice(t.Context()); serves || err != nil {
		t.Errorf("startDevice = %v, %v, want false", serves, err)
	}
}
