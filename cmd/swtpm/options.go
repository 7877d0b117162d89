package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/backend"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// openLog opens the log and points libtpms's own messages at it.
func openLog(c config.Log) (*daemon.Log, error) {
	log, err := daemon.OpenLog(daemon.LogOptions(c))
	if err != nil {
		return nil, err
	}
	debugTo(log)
	return log, nil
}

// debugTo points libtpms's own messages at log.
func debugTo(log *daemon.Log) { libtpms.Debug(log.FD(), log.LibtpmsLevel(), log.LibtpmsPrefix()) }

// logError tells a log that is not stderr why the process ends: often it is the
// only place where somebody looks.
func logError(c config.Log, log *daemon.Log, err error) error {
	if err != nil && !isSilent(err) && (c.File != "" || c.FD > 2) {
		log.Error(err)
	}
	return err
}

// writePID writes the process id where the configuration says, if it does. remove
// takes a file away again; it is nil if there is an error.
func writePID(c config.PID) (remove func(), err error) {
	if c.File == "" && c.FD < 0 {
		return func() {}, nil
	}
	return daemon.WritePID(c.File, c.FD)
}

// pidFile is the file with the process id, once it is written.
type pidFile struct{ undo func() }

func (p *pidFile) write(c config.PID) (err error) {
	p.undo, err = writePID(c)
	return err
}

func (p *pidFile) remove() {
	if p.undo != nil {
		p.undo()
	}
}

// warnings logs what is wrong with a TPM that starts all the same.
func warnings(cfg *config.Config, systemd *daemon.Notifier, log *daemon.Log) {
	if cfg.PrintInfo != 0 {
		return
	}
	for _, text := range cfg.Warnings() {
		log.Warnf("%s", text)
	}
	if err := systemd.Unreachable(); err != nil {
		log.Warnf("systemd is not notified: %v", err)
	}
}

func silent(err error) error {
	return &program.ExitError{Code: 1, Err: err, Silent: true}
}

func isSilent(err error) bool {
	e, ok := errors.AsType[*program.ExitError](err)
	return ok && e.Silent
}

// options joins the configuration and the log into what the TPM needs.
func options(cfg *config.Config, keys seal.Keys, profile string, record emul.Recorder, session *handover.Session, s *service, log *daemon.Log) emul.Options {
	o := emul.Options{
		Version:          cfg.TPM,
		Where:            cfg.State.Location.String(),
		Profile:          profile,
		NoNew:            cfg.Manufacture.Given,
		Keys:             keys,
		Backup:           cfg.State.Backup,
		NoAutoShutdown:   cfg.Flags.DisableAutoShutdown,
		RejectLocality4:  cfg.Locality.RejectLocality4,
		AllowSetLocality: cfg.Locality.AllowSetLocality,
		Incoming:         cfg.Migration.Incoming,
		Locks:            cfg.State.Lock,
		SealedOnly:       cfg.Migration.EncryptedOnly,
		MaxStores:        cfg.State.MaxStores,
		KeepStorage:      !cfg.Migration.ReleaseLockOutgoing,
		Slow:             log.Traffic(),
		Record:           record,
		FullWait:         fullWait(cfg.State),
		Handover:         handoverTo(session),
		Library:          libtpms.Version(),
		Event:            s.event,
		Note:             log.Infof,
		Error:            log.Errorf,
	}
	if cfg.PrintInfo != 0 {
		o.Note = nil // Compat: swtpm says nothing but what was asked for
	}
	if cfg.State.Location.Kind != nv.None {
		o.Open = func() (*nv.Store, error) { return openState(cfg, keys.File, log, false) }
	}
	return o
}

// fullWait is how long a command waits for space on a full disk.
func fullWait(s config.State) time.Duration {
	switch {
	case s.OnFull == "fail":
		return 0
	case s.WaitLimit == 0:
		return emul.Forever
	}
	return s.WaitLimit
}

// makeStateDir makes the state directory if the profile says so.
func makeStateDir(cfg *config.Config) error {
	if dir, ok := cfg.State.Location.Dir(); ok && cfg.State.Create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create the state directory: %w", err)
		}
	}
	return nil
}

// openState opens the place where the state is kept; with look, to change nothing.
func openState(cfg *config.Config, key *seal.Key, log *daemon.Log, look bool) (*nv.Store, error) {
	prefix := cfg.TPM.FilePrefix()
	o := cfg.State.Storage()
	o.Prefix, o.DryRun, o.Warn = prefix, look, log.Warnf
	b, err := backend.Open(cfg.State.Location, o)
	if err != nil {
		return nil, err
	}
	return nv.New(b, prefix, key), nil
}
