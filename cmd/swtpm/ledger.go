package main

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/ledger/recorder"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/program"
)

// openLedger returns the boot ledger of the TPM. It returns nil if nothing is recorded, because the
// configuration disables it or no files can be written next to the state.
func (e *emulator) openLedger(o *emul.Options) *recorder.Recorder {
	dir, prefix, ok := ledgerLocation(e.cfg)
	if !ok {
		return nil
	}
	if err := e.log.EnableAlarms(map[string]string{"state": e.cfg.State.Location.String()}); err != nil {
		e.log.Warnf("%v; failures of policies are in the log only", err)
	}
	event, version := o.Event, e.cfg.TPM
	r, err := recorder.New(recorder.Options{
		TPM: version, Dir: dir, Prefix: prefix,
		Mode:    uint32(e.cfg.State.Mode.Perm()),
		Boots:   e.cfg.Ledger.Boots,
		Engine:  "libtpms " + libtpms.Version(),
		Profile: program.PrintableLine(e.resources.algProfile),
		Handles: libtpms.Handles,
		Warn:    e.log.Warnf,

		Background: e.process.background.run,
		Failed: func(p ledger.Policy) {
			event(emul.Event{Kind: emul.PolicyFailed, Cause: recorder.Describe(version, p)})
		},
	})
	if err != nil {
		e.log.Warnf("%v; nothing is recorded", err)
		return nil
	}
	return r
}

// ledgerLocation returns the directory of the files and the prefix of their names; ok is false
// if nothing is to be recorded.
func ledgerLocation(cfg *config.Config) (dir, prefix string, ok bool) {
	if cfg.Ledger.Keep == config.KeepNone || cfg.PrintInfo != 0 {
		return "", "", false
	}
	if stateWithoutDirectory(cfg.State.Location) != "" {
		return "", "", false
	}
	switch l := cfg.State.Location; l.Kind {
	case nv.Directory:
		return l.Path, strings.TrimSuffix(cfg.TPM.FilePrefix(), "."), true
	case nv.File:
		dir = filepath.Dir(l.Path)
		return dir, filepath.Base(l.Path), unix.Access(dir, unix.W_OK|unix.X_OK) == nil
	}
	return "", "", false
}

// stateWithoutDirectory returns, in words, where the state is if that has no directory in which
// the boot ledger could be, and "" otherwise.
func stateWithoutDirectory(l nv.Location) string {
	switch l.Kind {
	case nv.Cluster:
		return "in a cluster store"
	case nv.File:
		var st unix.Stat_t
		if unix.Stat(l.Path, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			return "in a device"
		}
	}
	return ""
}
