package libvirt_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestExternal checks a TPM of <backend type='external'>: systemd opens its control socket, as
// swtpm@.socket does, and QEMU's connection starts swtpm run. libvirt starts no emulator. The TPM
// ends when the connection ends, because a QEMU that is ended while it starts sends no
// CMD_SHUTDOWN.
func TestExternal(t *testing.T) {
	dir := inside(t)
	sock, state, profile := filepath.Join(dir, "ctrl.sock"), filepath.Join(dir, "external"), filepath.Join(dir, "vm1.toml")
	write(t, profile, "[control]\nlisten = \"systemd:ctrl\"\nterminate = true\n[tpmstate]\ndir = \""+state+"\"\ncreate = true\n")
	program, err := exec.LookPath("swtpm")
	if err != nil {
		t.Fatal(err)
	}
	service := exec.Command("systemd-socket-activate", "--fdname=ctrl", "--listen="+sock, program, "run", profile)
	var said strings.Builder
	service.Stdout, service.Stderr = &said, &said
	if err := service.Start(); err != nil {
		t.Fatalf("install the package systemd: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- service.Wait() }()
	defer service.Process.Kill()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("there is no socket")
		}
	}
	g := &guest{name: "external", uuid: "5b1e2b84-9a46-4b3b-8d0a-93cf4a6f9f11", version: "2.0", model: "tpm-crb", external: sock}
	g.define(t, dir)
	virsh(t, "start", g.name)
	if s := strings.TrimSpace(virsh(t, "domstate", g.name)); s != "running" {
		t.Fatalf("the guest is %s", s)
	}
	if exe := emulators(t, g); len(exe) != 0 {
		t.Errorf("libvirt has started %q", exe)
	}
	if st, err := os.Stat(filepath.Join(state, "tpm2-00.permall")); err != nil || st.Size() == 0 {
		t.Errorf("the TPM has no state: %v, %v", st, err)
	}
	listed(t, g.name, "manual")
	virsh(t, "destroy", g.name)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the TPM ended with %v:\n%s", err, said.String())
		}
	case <-time.After(patience):
		t.Error("the TPM does not end with its guest")
	}
}
