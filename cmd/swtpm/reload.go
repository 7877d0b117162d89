package main

import (
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/doctor"
)

// reloadOnHangup reads the profile again in the background for each SIGHUP until the process ends.
// Only the destination and the level of the log can change while the TPM runs.
//
// Compat: C-136: SIGHUP ends a TPM of a classic command line, as in swtpm.
func (e *emulator) reloadOnHangup() {
	now := *e.cfg // the settings in use
	e.source.hangups.Watch(e.ctx, e.process.background.run, func() { e.reload(&now) }, func() { e.stop(errors.New("the terminal was closed")) })
}

// reload applies the [log] settings of the profile. After an error nothing has changed.
func (e *emulator) reload(now *config.Config) {
	e.service.systemd.Reloading()
	defer e.service.systemd.Reloaded()
	if err := e.readAgain(now); err != nil {
		e.log.Event(eventReloadFailed, true, err.Error(), fmt.Sprintf("reload: %v; nothing has changed", err))
		return
	}
	e.log.Event(eventReloaded, false, "", "reloaded: the log's settings")
}

// readAgain reads the profile and reopens the log.
func (e *emulator) readAgain(now *config.Config) error {
	cfg, err := config.ReloadProfile(e.source.path, e.source.instance)
	if err != nil {
		return err
	}
	cfg.ApplyHost(now.Host, e.source.instance) // the sandbox does not allow to read the file again
	if cfg.Log.FD != now.Log.FD {
		return fmt.Errorf("[log] fd: %d: a reload cannot change the descriptor; it was %d at the start", cfg.Log.FD, now.Log.FD)
	}
	if err := e.log.Reopen(daemon.LogOptions(cfg.Log)); err != nil {
		return doctor.AppendRemedy(err, doctor.Output(err))
	}
	e.tpm.Relog(e.log.Traffic(), func() { debugTo(e.log) })
	now.Log = cfg.Log
	if *cfg != *now {
		e.log.Warnf("the profile has changed in more than [log]; the other changes take effect at the next start")
	}
	return nil
}
