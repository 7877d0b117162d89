package main

import (
	"context"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
)

// reloader reads the profile of a TPM again, on SIGHUP. Only where and how much is
// logged can change while the TPM runs. A nil reloader is that of a classic command
// line.
//
// Compat: a TPM of a classic command line is ended by SIGHUP, as by swtpm.
type reloader struct {
	origin
	cfg *config.Config // what counts
	tpm *emul.TPM
	*service
}

func (from origin) reloader(cfg *config.Config, t *emul.TPM, s *service) *reloader {
	if from.again == nil {
		return nil
	}
	now := *cfg
	return &reloader{origin: from, cfg: &now, tpm: t, service: s}
}

// run reads the profile for each SIGHUP until ctx ends, and calls gone if the
// terminal has.
func (r *reloader) run(ctx context.Context, gone func()) {
	if r != nil {
		r.hangups.Run(ctx, r.reload, gone)
	}
}

// reload takes the log's settings of the profile; with an error all stays as it is.
func (r *reloader) reload() {
	r.systemd.Reloading()
	defer r.systemd.Reloaded()
	if err := r.readAgain(); err != nil {
		r.log.Event(eventReloadFailed, true, err.Error(), fmt.Sprintf("reload: %v; all stays as it was", err))
		return
	}
	r.log.Event(eventReloaded, false, "", "reloaded: the log's settings")
}

func (r *reloader) readAgain() error {
	cfg, err := r.again()
	if err != nil {
		return err
	}
	if cfg.Log.FD != r.cfg.Log.FD {
		return fmt.Errorf("[log] fd: %d: descriptors are those of the start, when it was %d", cfg.Log.FD, r.cfg.Log.FD)
	}
	if err := r.log.Reopen(daemon.LogOptions(cfg.Log)); err != nil {
		return err
	}
	r.tpm.Relog(r.log.Traffic(), func() { debugTo(r.log) })
	r.cfg.Log = cfg.Log
	if *cfg != *r.cfg {
		r.log.Warn("the profile has changed in more than [log]; the rest counts from the next start")
	}
	return nil
}
