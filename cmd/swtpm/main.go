// The Go runtime starts for one processor, see package early, and stays with that, so it need
// not read the limits of its cgroup. It does not name its memory: no prctl is allowed then.
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
	"io/fs"
	"os"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/early"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

func main() { program.MainSignals("swtpm", early.Signals, run) }

// run does what the first argument says: a verb of our own, or the interface of
// the classic command line.
func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return usage("Missing TPM interface type.")
	}
	if tell, ok := plainWords[args[0]]; ok {
		return tell()
	}
	if v := findVerb(verbTable(), args); v != nil {
		return v.call(ctx, v.name, args[1:])
	}
	cfg, err := config.Classic(args[0], args[1:], os.Getenv)
	if err != nil {
		return classicError(err)
	}
	if _, _, ok := early.Launcher(); cfg.Daemon && !ok {
		return errors.New("--daemon: the process was not forked")
	}
	fmt.Fprint(os.Stderr, program.Printable(cfg.Ignored))
	return findHeritage(os.Getenv).live(ctx, cfg, origin{})
}

// origin is the profile that a Config comes from. A classic command line has none.
type origin struct {
	instance string
	hangups  *daemon.Hangups                // signals to read it again
	path     string                         // absolute
	again    func() (*config.Config, error) // reads it
	heritage *heritage                      // of the previous process
}

// life is one TPM from the start of its process to the end, as far as live has come.
type life struct {
	cfg     *config.Config
	from    origin
	systemd *daemon.Notifier
	device  device
	log     *daemon.Log
	engine  emul.Engine
	ends    *ends
	session *handover.Session
	keys    seal.Keys
	profile string // algorithm profile of a new TPM
	pid     pidFile
	service *service
	meter   *meter
	tpm     *emul.TPM
}

// live is the life of a TPM, in order. Each step needs the ones above it.
func live(ctx context.Context, cfg *config.Config, from origin) (err error) {
	l := &life{cfg: cfg, from: from, systemd: openNotifier()}
	if err := l.giveUpPrivileges(); err != nil {
		return err
	}
	if l.log, err = openLog(cfg.Log); err != nil {
		return err
	}
	defer l.log.Close()
	describe(l.log, from.instance, cfg.TPM)
	defer func() { err = logError(cfg.Log, l.log, err) }()
	if cfg.PrintCapabilities {
		return printCapabilities(os.Stdout, cfg.TPM, cfg.Interface.Type)
	}
	if err := l.open(); err != nil {
		return err
	}
	defer l.ends.Close()
	switch { // Compat: swtpm takes the sockets first
	case cfg.PrintStates:
		return printStates(os.Stdout, cfg, l.log)
	case cfg.PrintProfiles:
		return printProfiles(program.PrintableWriter(os.Stdout), l.engine)
	}
	l.ends.logPorts(cfg, l.log)
	warnings(cfg, l.systemd, l.log)
	if err := sandbox.Harden(); err != nil { // from here on there may be keys in memory
		return err
	}
	defer func() { closeKeys(l.keys) }()
	if err := l.readInputs(ctx); err != nil {
		return unlessEnding(ctx, cuseCode(cfg, cuseKey, err))
	}
	record, stopRecord, err := openCapture(cfg, l.log)
	if err != nil {
		return cuseCode(cfg, cuseKey, err)
	}
	defer stopRecord()
	defer l.pid.remove()
	if err := l.assemble(ctx, record); err != nil {
		return err
	}
	defer l.store()
	if cfg.PrintInfo != 0 {
		return l.printInfo()
	}
	return l.run(ctx)
}

// openNotifier returns the connection to systemd or to the launcher of --daemon.
func openNotifier() *daemon.Notifier {
	systemd := daemon.OpenNotifier()
	if pipe, null, ok := early.Launcher(); ok {
		systemd.Launched(pipe, null)
	}
	return systemd
}

// giveUpPrivileges changes the root directory and the user. It comes before files, which
// must be inside and belong to that user, but after the devices that only root may open.
func (l *life) giveUpPrivileges() (err error) {
	if l.device, err = openDevice(l.cfg); err != nil {
		return err
	}
	return cuseCode(l.cfg, cuseNoUser, enter(l.cfg.Sandbox))
}

// open chooses the TPM version of libtpms and opens the sockets.
func (l *life) open() (err error) {
	l.engine = libtpms.Engine()
	v := l.cfg.TPM
	if err := l.engine.Choose(v); err != nil {
		return fmt.Errorf("libtpms %s has no TPM %s: %w; install one that has it, or choose the other version", libtpms.Version(), v, err)
	}
	l.ends, l.session, err = openEnds(l.cfg, l.device, l.systemd, l.log)
	return err
}

// readInputs reads the keys and the algorithm profile. They may come through pipes, so it
// ends when ctx does.
func (l *life) readInputs(ctx context.Context) (err error) {
	if l.keys, err = awaitKeys(ctx, l.cfg); err != nil {
		return err
	}
	logKeyWarnings("key", l.keys.File, l.log.Warnf)
	logKeyWarnings("migration-key", l.keys.Migration, l.log.Warnf)
	l.profile, err = awaitProfile(ctx, l.cfg)
	return err
}

// assemble makes the TPM, which is off, and what observes it. No state is read yet.
func (l *life) assemble(ctx context.Context, record emul.Recorder) (err error) {
	if l.device.cuse == nil { // else see appear
		if err := l.pid.write(l.cfg.PID); err != nil {
			return err
		}
	}
	l.service = &service{systemd: l.systemd, log: l.log}
	l.service.rejected(l.from.heritage.problem)
	o := options(l.cfg, l.keys, l.profile, record, l.session, l.service, l.log)
	if l.meter, err = newMeter(l.cfg, l.from.instance, &o, l.log); err != nil {
		return err
	}
	if err := makeStateDir(l.cfg); err != nil {
		return cuseCode(l.cfg, cuseStart, err)
	}
	l.tpm, err = emul.New(ctx, l.engine, o)
	return err
}

// store stops the TPM, which stores its last state. An error of closing the state does not
// change the exit code: the state is on disk by then.
func (l *life) store() {
	if err := l.tpm.Close(); err != nil {
		l.log.Errorf("close the state: %v", err)
	}
}

// printInfo prints what libtpms knows of the TPM, inside the sandbox.
func (l *life) printInfo() error {
	if err := l.confineQuietly(""); err != nil {
		return err
	}
	return printInfo(program.PrintableWriter(os.Stdout), l.cfg, l.tpm)
}

// run confines the process, starts the TPM and serves its clients until the process is to
// end.
func (l *life) run(ctx context.Context) error {
	r := l.from.reloader(l.cfg, l.tpm, l.service)
	j, err := join(ctx, l.cfg, l.ends, l.session, l.tpm, l.service)
	if err != nil {
		return err
	}
	defer j.end(nil)
	if served, err := l.begin(ctx); err != nil || !served {
		return unlessEnding(ctx, retryable(err, l.from, l.systemd))
	}
	l.service.atReady = func() { l.from.heritage.ready(l.session) }
	if err := j.serve(r, l.meter); err != nil {
		return err
	}
	return lostStorage(context.Cause(j.ctx), l.session)
}

// begin confines the process and starts the TPM, in this order, so that no byte of a
// state, which may be a stranger's, reaches libtpms before. A device of CUSE appears
// with the TPM on, and then its pid file. Both need what confine takes away. begin
// returns false if the TPM is not to be served.
func (l *life) begin(ctx context.Context) (bool, error) {
	if l.device.cuse == nil {
		if err := l.confine(); err != nil {
			return false, err
		}
		return l.start(ctx)
	}
	if _, err := l.start(ctx); err != nil {
		return false, exitCode(cuseStart, err)
	}
	if err := appear(l.cfg, l.device.cuse, &l.pid); err != nil {
		return false, err
	}
	return true, l.confine()
}

// confine takes from the process what it no longer needs, and logs what the sandbox
// lacks. A reload can still read the profile.
func (l *life) confine() error {
	if err := l.confineQuietly(l.from.path); err != nil {
		return err
	}
	confined := l.service.confined
	if err := confined.Missing; err != nil {
		l.log.Warnf("sandbox: %v", err)
	}
	l.log.Debugf("sandbox: %v", confined)
	for _, path := range confined.Stays {
		l.log.Debugf("sandbox: %q stays at the end: others have files in the same directory; choose a directory of the TPM's own", path)
	}
	return nil
}

// confineQuietly is confine without log lines. profile is the file that a reload reads, ""
// for none.
func (l *life) confineQuietly(profile string) (err error) {
	libtpms.Warm()
	l.service.confined, err = sandbox.Enter(sandbox.Plan(l.cfg, profile))
	return cuseCode(l.cfg, cuseSandbox, err)
}

// enter changes the root directory and the user. Nothing but the program, what it
// is linked to, and descriptors from before must be needed of the old root: OpenSSL
// reads its configuration when it is first used, inside. It may be told to load
// code, so by then the process is no longer root.
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
	return libtpms.Entropy()
}

// start resumes the TPM of the previous process, or powers it on. It returns false if the
// TPM is not to be served.
func (l *life) start(ctx context.Context) (bool, error) {
	resumed := false
	if l.session.Resumed() {
		var err error
		if resumed, err = resume(ctx, l.from.heritage, l.tpm, l.service); err != nil {
			return false, err
		}
	}
	if !resumed || !l.tpm.WasReady() {
		if on, err := powerOn(l.tpm, l.cfg.Flags, l.log); err != nil || !on {
			return false, err
		}
	}
	l.tpm.Ready()
	return true, nil
}

// powerOn powers the TPM on unless a client is to do that. It returns false if the TPM is
// not to be served. The previous process may have sent the Startup already: sending it
// twice is harmless, because the TPM rejects the second one.
func powerOn(t *emul.TPM, f config.Flags, log *daemon.Log) (bool, error) {
	if f.Startup == "deactivated" && t.Version() == tpm.V20 {
		// Compat: swtpm says so and ends with 0.
		log.Error("TPM 2 does not support startup deactivated.")
		return false, nil
	}
	if !f.NotNeedInit {
		return true, nil
	}
	if !t.On() {
		if err := t.Init(false); err != nil {
			return false, silent(err) // Init has logged the cause
		}
	}
	if f.Startup == "" || f.Startup == "none" {
		return true, nil
	}
	return true, t.Startup(f.Startup)
}

// awaitKeys calls readKeys until ctx ends, because a key may come through a pipe whose
// writer is slow. A key that is read after that stays in locked memory until the process
// ends.
func awaitKeys(ctx context.Context, cfg *config.Config) (seal.Keys, error) {
	if cfg.Key.Source == config.NoKey && cfg.MigrationKey.Source == config.NoKey {
		return seal.Keys{}, nil
	}
	return program.Await(ctx, func() (seal.Keys, error) { return readKeys(cfg) })
}

// unlessEnding returns err, or nil if the process is to end: the writer of a pipe for a key
// or a profile may never come, which is no failure then.
func unlessEnding(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// readKeys reads the key of the state and that of the blobs which leave through
// the control channel.
func readKeys(cfg *config.Config) (keys seal.Keys, err error) {
	if keys.File, err = readKey("key", cfg.Key); err != nil {
		return keys, err
	}
	keys.Migration, err = readKey("migration-key", cfg.MigrationKey)
	return keys, err
}

func readKey(option string, k config.Key) (*seal.Key, error) {
	if k.Source == config.NoKey {
		return nil, nil
	}
	path := k.Path
	if k.Source == config.KeyCredential {
		var err error
		if path, err = daemon.Credential(k.Name); err != nil {
			return nil, fmt.Errorf("--%s: %w", option, err)
		}
	}
	key, err := seal.ReadKey(seal.Source{
		Path:       path,
		FD:         k.FD,
		Passphrase: k.Source == config.PassFile || k.Source == config.PassFD,
		Hex:        k.Hex,
		KDF:        k.KDF,
		Bits:       k.Bits,
		Remove:     k.Remove,
	})
	if err != nil {
		return nil, fmt.Errorf("--%s: %w%s", option, err, keyAdvice(err))
	}
	return key, nil
}

// keyAdvice returns a hint for a key file that cannot be opened.
func keyAdvice(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "; correct the path, or restore the file"
	case errors.Is(err, fs.ErrPermission):
		return "; let this user read the file, or, in a unit, pass it with LoadCredential= and [key] credential"
	}
	return ""
}

// logKeyWarnings logs the warnings about the key of an option. k may be nil.
func logKeyWarnings(option string, k *seal.Key, warn func(format string, args ...any)) {
	if k == nil {
		return
	}
	for _, text := range k.Warnings() {
		warn("--%s: %s", option, text)
	}
}

func closeKeys(k seal.Keys) {
	for _, key := range []*seal.Key{k.File, k.Migration} {
		if key != nil {
			_ = key.Close()
		}
	}
}
