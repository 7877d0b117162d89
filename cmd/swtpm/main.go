// Package early (early.c) starts the Go runtime on one processor, and createThreads retains that.
// Therefore the runtime does not read the limits of its cgroup, neither at the start nor later. It
// also gives its memory no names, because the sandbox does not allow the prctl for that.
//
//go:debug containermaxprocs=0
//go:debug decoratemappings=0
//go:debug updatemaxprocs=0

// Command swtpm emulates a TPM 1.2 or 2.0 for a virtual machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/swtpm-go/swtpm/cmd/swtpm/early"
	_ "github.com/swtpm-go/swtpm/cmd/swtpm/stack"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

func main() { program.MainSignals("swtpm", early.Signals, run) }

// run executes what the first argument names: help or the version, a verb, a verb of the whole
// host, which another program implements, or the interface of a classic command line.
func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 0:
		return usage("Missing TPM interface type.")
	case slices.Contains(config.Interfaces, args[0]): // first, because the tables of verbs would cost a TPM memory
		return runClassic(ctx, args)
	}
	if answer, ok := plainWords()[args[0]]; ok {
		return answer()
	}
	if v := findVerb(verbTable(), args); v != nil {
		return v.call(ctx, v.name, args[1:])
	}
	if v := findHostVerb(args[0]); v != nil {
		return v.exec(args[1:])
	}
	return runClassic(ctx, args)
}

// runClassic runs the TPM of a classic command line, or does what it requests instead.
func runClassic(ctx context.Context, args []string) error {
	cfg, err := config.Classic(args[0], args[1:], os.Getenv)
	if err != nil {
		return classicError(err)
	}
	if _, _, ok := early.Launcher(); cfg.Daemon && !ok {
		return errors.New("--daemon: the process was not forked")
	}
	fmt.Fprint(os.Stderr, program.Printable(cfg.Ignored))
	src := source{previous: findPrevious(os.Getenv)}
	if cfg.Printing() != "" {
		return printAndEnd(ctx, cfg, src)
	}
	return src.previous.rescue(ctx, live(ctx, cfg, src))
}

// live is the life of a TPM, in order. Each step needs the ones above it.
func live(ctx context.Context, cfg *config.Config, src source) (err error) {
	e := &emulator{cfg: cfg, source: src}
	e.applyHost()
	defer func() { err = e.end(err) }() // the TPM stores its last state here
	if err := e.giveUpPrivileges(); err != nil {
		return err
	}
	if err := e.openLog(); err != nil {
		return err
	}
	if err := e.openChannels(); err != nil { // clients of sockets can connect from here on; serve answers them
		return err
	}
	e.logWarnings()
	if err := e.readInputs(ctx); err != nil {
		return unlessEnding(ctx, err)
	}
	if err := e.createTPM(ctx); err != nil { // it is off, no state is read yet
		return err
	}
	if err := e.createServers(ctx); err != nil {
		return err
	}
	if serves, err := e.start(ctx); err != nil || !serves { // in the sandbox from here on
		return unlessEnding(ctx, e.retryable(err))
	}
	if e.observers.ledger != nil { // it writes no file if the start was refused
		e.observers.ledger.Ready()
	}
	return e.serve()
}

// giveUpPrivileges opens the TPM's device, which only root may open, and then changes the root
// directory and the user. All files are opened later: they are in the new root directory and
// belong to the new user.
func (e *emulator) giveUpPrivileges() (err error) {
	e.service.systemd = openNotifier()
	if e.channels, err = openDevice(e.cfg); err != nil {
		return err
	}
	return withCode(cuseNoUser, enter(e.cfg.Sandbox))
}

// openLog opens the log. An error of any later step is written there.
func (e *emulator) openLog() (err error) {
	if e.log, err = openLog(e.cfg.Log); err != nil {
		return err
	}
	e.service.log = e.log
	e.source.host.log(e.log)
	describe(e.log, e.source.instance, e.cfg.TPM)
	return nil
}

// openChannels chooses the TPM version of libtpms and opens the sockets.
func (e *emulator) openChannels() (err error) {
	if err := libtpms.Engine().Choose(e.cfg.TPM); err != nil {
		return fmt.Errorf("libtpms %s has no TPM %s: %w; install one that has it, or choose the other version", libtpms.Version(), e.cfg.TPM, err)
	}
	e.handover, err = e.channels.open(e.cfg, e.service.systemd, e.log)
	e.onEnd(e.channels.close)
	return err
}

// readInputs reads the keys and the algorithm profile, and opens the recording of traffic. Keys and
// profile may come through pipes whose writers are slow: readInputs returns when ctx ends. A key
// that arrives later stays in locked memory until the process ends.
func (e *emulator) readInputs(ctx context.Context) (err error) {
	if err := sandbox.Harden(); err != nil { // from here on there may be keys in memory
		return err
	}
	e.onEnd(func() { closeKeys(e.resources.keys) })
	if e.resources.keys, err = awaitKeys(ctx, e.cfg); err != nil {
		return withCode(cuseInput, err)
	}
	logKeyWarnings("key", e.resources.keys.File, e.log.Warnf)
	logKeyWarnings("migration-key", e.resources.keys.Migration, e.log.Warnf)
	if e.resources.algProfile, err = awaitProfile(ctx, e.cfg); err != nil {
		return withCode(cuseInput, err)
	}
	var stop func()
	e.resources.traffic, stop, err = openCapture(e.cfg, e.log)
	e.onEnd(stop)
	return withCode(cuseInput, err)
}

// createTPM creates the TPM, the boot ledger and the metrics that observe it, the pid file, the
// connection to the broker of a cluster store, and a missing state directory.
func (e *emulator) createTPM(ctx context.Context) (err error) {
	e.onEnd(func() {
		if e.process.removePID != nil {
			e.process.removePID()
		}
	})
	if e.channels.cuse == nil { // with CUSE, startDevice writes it
		if err := e.writePID(); err != nil {
			return err
		}
	}
	e.service.profileRejected(e.source.previous.problem)
	libtpms.ShowCommands(tpm.CommandsFile)
	o := e.options()
	e.observers.ledger = e.openLedger(&o)
	o.Ledger = e.observers.ledger
	if e.observers.meter, err = newMeter(e.cfg, e.source.instance, &o, e.log); err != nil {
		return err
	}
	if err := e.openLink(); err != nil {
		return withCode(cuseStart, e.retryable(err))
	}
	if err := makeStateDir(e.cfg); err != nil {
		return withCode(cuseStart, err)
	}
	if e.tpm, err = emul.New(ctx, libtpms.Engine(), o); err != nil {
		return err
	}
	e.onEnd(e.close)
	return nil
}

// start confines the process and then starts the TPM. In this order libtpms reads a state, which an
// attacker may have written, only inside the sandbox. With a device of CUSE the order is different;
// see startDevice. start returns false if the TPM must not be served; see powerOn.
func (e *emulator) start(ctx context.Context) (serves bool, err error) {
	if e.channels.cuse != nil {
		return e.startDevice(ctx)
	}
	if err := e.confine(); err != nil {
		return false, err
	}
	return e.resumeOrPowerOn(ctx)
}

// startDevice starts a TPM with a device of CUSE. It starts the TPM, creates the device, writes the pid
// file, and then confines the process, because device and file need privileges that confine removes.
// Therefore libtpms reads the state before the process is confined.
func (e *emulator) startDevice(ctx context.Context) (bool, error) {
	if serves, err := e.resumeOrPowerOn(ctx); err != nil || !serves {
		return false, withCode(cuseStart, err)
	}
	if err := e.channels.cuse.Create(uint32(e.cfg.Interface.Major), uint32(e.cfg.Interface.Minor)); err != nil {
		return false, err
	}
	if err := e.writePID(); err != nil {
		return false, withCode(cusePID, err)
	}
	return true, e.confine()
}

// confine enters the sandbox, and logs which parts of it this system does not support. A reload can
// still read the profile.
func (e *emulator) confine() error {
	if err := e.confineQuietly(e.source.path); err != nil {
		return err
	}
	if err := e.process.confined.Missing; err != nil {
		e.log.Warnf("sandbox: %v", err)
	}
	e.log.Debugf("sandbox: %v", e.process.confined)
	for _, path := range e.process.confined.Unremoved {
		e.log.Debugf("sandbox: %q is not removed at exit: the directory is shared; choose a directory that only this TPM uses", path)
	}
	return nil
}

// confineQuietly enters the sandbox without log lines. profile is the file that a reload reads, ""
// for none.
func (e *emulator) confineQuietly(profile string) (err error) {
	libtpms.LoadOpenSSL()
	e.process.confined, err = sandbox.Enter(sandbox.Plan(e.cfg, profile))
	return withCode(cuseSandbox, err)
}

// close stops the TPM, which stores its last state. An error of closing the state does not
// change the exit code: the state is on disk by then.
func (e *emulator) close() {
	if err := e.tpm.Close(); err != nil {
		e.log.Errorf("close the state: %v", err)
	}
}
