package main

import (
	"fmt"
	"os"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/backend"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/nv/remote"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// options returns the options of the TPM.
func (e *emulator) options() emul.Options {
	cfg, log := e.cfg, e.log
	o := emul.Options{
		Version:          cfg.TPM,
		Where:            cfg.State.Location.String(),
		Profile:          e.resources.algProfile,
		NoNew:            cfg.Manufacture.Given,
		Keys:             e.resources.keys,
		Backup:           cfg.State.Backup,
		NoAutoShutdown:   cfg.Flags.DisableAutoShutdown,
		RejectLocality4:  cfg.Locality.RejectLocality4,
		AllowSetLocality: cfg.Locality.AllowSetLocality,
		Incoming:         cfg.Migration.Incoming,
		Locks:            cfg.State.Lock && cfg.State.Location.Kind != nv.Cluster,
		End:              e.endFor,
		SealedOnly:       cfg.Migration.EncryptedOnly,
		MaxStores:        cfg.State.MaxStores,
		RetainLock:       !cfg.Migration.ReleaseLockOutgoing,
		GoPath:           log.Traffic(),
		Traffic:          e.resources.traffic,
		FullWait:         fullWait(cfg.State),
		Handover:         handoverTo(e.handover),
		Library:          libtpms.Version(),
		Remedy:           e.source.remedies().State,
		Event:            e.service.event,
		Note:             log.Infof,
		Error:            log.Errorf,
		After:            e.after,
		Background:       e.process.background.run,
	}
	rollbackOptions(&o, cfg)
	if cfg.PrintInfo != 0 {
		o.Note = nil // Compat: C-215: swtpm prints only what was asked for
	}
	if cfg.State.Location.Kind != nv.None {
		w := generation.ThisHost(program.Name) // the sandbox may not allow it later
		o.Open = func() (*nv.Store, error) {
			s, err := e.openState(cfg, log)
			if err == nil {
				s.SetWriter(w)
			}
			return s, err
		}
	}
	return o
}

// after calls f on the engine's thread once d has passed, also if the engine serves only later.
func (e *emulator) after(d time.Duration, f func()) {
	if e.servers.data == nil || !e.servers.data.After(d, f) {
		time.AfterFunc(d, f)
	}
}

// fullWait returns how long a command waits for space on a full disk.
func fullWait(s config.State) time.Duration {
	switch {
	case s.OnFull == config.FullFail:
		return 0
	case s.WaitLimit == 0:
		return emul.Forever
	}
	return s.WaitLimit
}

// makeStateDir creates the state directory if the profile asks for it.
func makeStateDir(cfg *config.Config) error {
	if dir, ok := cfg.State.Location.Dir(); ok && cfg.State.Create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create the state directory: %w", err)
		}
	}
	return nil
}

// openState opens the state of this TPM: in a cluster store through the connection that was
// opened before the process was confined.
func (e *emulator) openState(cfg *config.Config, log *daemon.Log) (*nv.Store, error) {
	if e.resources.link == nil {
		return openState(cfg, e.resources.keys.File, log, false)
	}
	o := cfg.State.Storage()
	o.Prefix, o.Warn = cfg.TPM.FilePrefix(), log.Warnf
	if e.handover != nil {
		c := e.handover.Cells()
		o.Token, o.Revision = &c.Token, &c.Revision
	}
	return nv.New(e.resources.link.Open(o), cfg.TPM.FilePrefix(), e.resources.keys.File), nil
}

// openLink connects to the broker if the state is in a cluster store.
func (e *emulator) openLink() error {
	l := e.cfg.State.Location
	if l.Kind != nv.Cluster || e.cfg.Printing() != "" && e.cfg.PrintInfo == 0 {
		return nil
	}
	if err := l.CheckKey(e.resources.keys.File != nil, e.cfg.State.Plain, nv.GiveKey); err != nil {
		return err
	}
	link, err := remote.Dial(l.Path)
	if err != nil {
		return err
	}
	e.resources.link = link
	e.onEnd(func() { _ = link.Close() })
	return nil
}

// openState opens the storage of the state. With dryRun it changes nothing.
func openState(cfg *config.Config, key *seal.Key, log *daemon.Log, dryRun bool) (*nv.Store, error) {
	prefix := cfg.TPM.FilePrefix()
	o := cfg.State.Storage()
	o.Prefix, o.DryRun, o.Warn = prefix, dryRun, log.Warnf
	b, err := backend.Open(cfg.State.Location, o)
	if err != nil {
		return nil, err
	}
	return nv.New(b, prefix, key), nil
}
