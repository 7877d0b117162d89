package main

import (
	"context"

	"github.com/swtpm-go/swtpm/cmd/swtpm/early"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// openNotifier returns the connection to systemd or to the launcher of --daemon.
func openNotifier() *daemon.Notifier {
	systemd := daemon.OpenNotifier()
	if pipe, null, ok := early.Launcher(); ok {
		systemd.Launched(pipe, null)
	}
	return systemd
}

// enter changes the root directory and the user. After that, only the program, its shared
// libraries and descriptors that are already open come from the old root. OpenSSL reads its
// configuration when it is first used, from the new root. The configuration may make it load code,
// so the process is no longer root by then.
func enter(s config.Sandbox) error {
	if s.Chroot == "" {
		return sandbox.Drop(s.User)
	}
	if err := sandbox.Chroot(s.Chroot); err != nil {
		return err
	}
	if err := sandbox.DropInside(s.User); err != nil {
		return err
	}
	return libtpms.CheckEntropy()
}

// openLog opens the log and sends libtpms's own messages to it.
func openLog(c config.Log) (*daemon.Log, error) {
	log, err := daemon.OpenLog(daemon.LogOptions(c))
	if err != nil {
		return nil, doctor.AppendRemedy(err, doctor.Output(err))
	}
	debugTo(log)
	return log, nil
}

// debugTo sends libtpms's own messages to log.
func debugTo(log *daemon.Log) { libtpms.Debug(log.FD(), log.LibtpmsLevel(), log.LibtpmsPrefix()) }

// logError writes the reason for the end of the process to a log that is not stderr, because
// administrators often read only the log.
func logError(c config.Log, log *daemon.Log, err error) {
	if err != nil && !isSilent(err) && (c.File != "" || c.FD > 2) {
		log.Errorf("%v", err)
	}
}

// writePID writes the process id to the file of the configuration, if there is one.
func (e *emulator) writePID() error {
	c := e.cfg.PID
	if c.File == "" && c.FD < 0 {
		return nil
	}
	remove, err := daemon.WritePID(c.File, c.FD)
	if err != nil {
		return doctor.AppendRemedy(err, doctor.Output(err))
	}
	e.process.removePID = remove
	return nil
}

// logWarnings logs the ports that the kernel has chosen, and faults that do not prevent a
// start.
func (e *emulator) logWarnings() {
	e.channels.logPorts(e.cfg, e.log)
	for _, text := range e.cfg.Warnings() {
		e.log.Warnf("%s", text)
	}
	if err := e.service.systemd.Unreachable(); err != nil {
		e.log.Warnf("systemd is not notified: %v", err)
	}
}

// resumeOrPowerOn resumes the TPM of the previous process, or powers it on. It returns
// false if the TPM is not to be served.
func (e *emulator) resumeOrPowerOn(ctx context.Context) (bool, error) {
	resumed := false
	if e.handover.Resumed() {
		var err error
		if resumed, err = e.source.previous.resume(ctx, e.tpm, &e.service); err != nil {
			return false, err
		}
	}
	if !resumed || !e.tpm.WasReady() {
		if on, err := powerOn(e.tpm, e.cfg.Flags, e.log); err != nil || !on {
			return false, err
		}
	}
	e.tpm.Ready()
	return true, nil
}

// powerOn powers the TPM on unless a client is to do that. It returns false if the TPM is
// not to be served. The previous process may have sent the Startup already: sending it
// twice is harmless, because the TPM rejects the second one.
func powerOn(t *emul.TPM, f config.Flags, log *daemon.Log) (bool, error) {
	if f.Startup == config.StartupDeactivated && t.Version() == tpm.V20 {
		// Compat: C-213: swtpm logs this and ends with exit code 0.
		log.Errorf("TPM 2 does not support startup deactivated.")
		return false, nil
	}
	if !f.NotNeedInit {
		return true, nil
	}
	start, startup := t.InitForStartup, f.Startup != config.NoStartup && f.Startup != config.StartupNone
	if !startup {
		start = func() error { return t.Init(false) }
	}
	if !t.On() {
		if err := start(); err != nil {
			return false, silent(err) // it has logged the cause
		}
	}
	if !startup {
		return true, nil
	}
	return true, t.Startup(string(f.Startup))
}
