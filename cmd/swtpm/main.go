// The Go runtime starts for one processor, see package early, and stays with that.
//
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
	"github.com/swtpm-go/swtpm/internal/keep"
	"github.com/swtpm-go/swtpm/internal/printable"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

func main() { daemon.MainSignals("swtpm", early.Signals, run) }

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
	fmt.Fprint(os.Stderr, printable.Text(cfg.Ignored))
	return findHeritage(os.Getenv).live(ctx, cfg, origin{})
}

// origin is the profile that a Config is of. A classic command line has none.
type origin struct {
	instance string
	hangups  *daemon.Hangups                // when it is to be read again
	path     string                         // absolute
	again    func() (*config.Config, error) // reads it
	heritage *heritage                      // what the previous process has left
}

// live is the life of a TPM, in order. Each step needs the ones above it.
func live(ctx context.Context, cfg *config.Config, from origin) (err error) {
	systemd := daemon.OpenNotifier()
	if pipe, null, ok := early.Launcher(); ok {
		systemd.Launched(pipe, null)
	}
	device, err := openDevice(cfg)
	if err != nil {
		return err
	}
	if err := enter(cfg.Sandbox); err != nil { // before files: they must be inside, and belong to that user
		return cuseCode(cfg, cuseNoUser, err)
	}
	log, err := openLog(cfg.Log)
	if err != nil {
		return err
	}
	defer log.Close()
	describe(log, from.instance, version(cfg))
	defer func() { err = logError(cfg.Log, log, err) }()
	if cfg.PrintCapabilities {
		return printCapabilities(os.Stdout, version(cfg), cfg.Interface.Type)
	}

	engine := libtpms.Engine()
	if err := engine.Choose(version(cfg)); err != nil {
		return fmt.Errorf("libtpms %s has no TPM %s: %w; install one that has it, or choose the other version", libtpms.Version(), version(cfg), err)
	}
	ends, session, err := openEnds(cfg, device, systemd, log)
	if err != nil {
		return err
	}
	defer ends.Close()
	switch { // Compat: swtpm takes the sockets first
	case cfg.PrintStates:
		return printStates(os.Stdout, cfg, log)
	case cfg.PrintProfiles:
		return printProfiles(printable.Writer(os.Stdout), engine)
	}
	ends.logPorts(cfg, log)
	warnings(cfg, systemd, log)
	if err := sandbox.Harden(); err != nil { // from here on there may be keys in memory
		return err
	}
	keys, err := awaitKeys(ctx, cfg)
	if err != nil {
		return unlessEnding(ctx, cuseCode(cfg, cuseKey, err))
	}
	defer closeKeys(keys)
	tellWarnings("key", keys.File, log.Warnf)
	tellWarnings("migration-key", keys.Migration, log.Warnf)
	profile, err := awaitProfile(ctx, cfg)
	if err != nil {
		return unlessEnding(ctx, cuseCode(cfg, cuseKey, err))
	}
	record, stopRecord, err := openCapture(cfg, log)
	if err != nil {
		return cuseCode(cfg, cuseKey, err)
	}
	defer stopRecord()
	pid := &pidFile{}
	defer pid.remove()
	if device.cuse == nil { // else see appear
		if err := pid.write(cfg.PID); err != nil {
			return err
		}
	}

	s := &service{systemd: systemd, log: log}
	s.rejected(from.heritage.problem)
	o := options(cfg, keys, profile, record, session, s, log)
	m, err := newMeter(cfg, from.instance, &o, log)
	if err != nil {
		return err
	}
	if err := makeStateDir(cfg); err != nil {
		return cuseCode(cfg, cuseStart, err)
	}
	t, err := emul.New(ctx, engine, o)
	if err != nil {
		return err
	}
	defer func() { // the last blob is stored here
		if e := t.Close(); e != nil { // it is on disk by now
			log.Errorf("close the state: %v", e)
		}
	}()
	if cfg.PrintInfo != 0 {
		if err := confineQuietly(cfg, s, ""); err != nil {
			return err
		}
		return printInfo(printable.Writer(os.Stdout), cfg, t)
	}
	r := from.reloader(cfg, t, s)
	j, err := join(ctx, cfg, ends, session, t, s)
	if err != nil {
		return err
	}
	defer j.end(nil)
	if served, err := begin(ctx, cfg, device, session, t, s, from, pid); err != nil || !served {
		return unlessEnding(ctx, retryable(err, from, systemd))
	}
	s.atReady = func() { from.heritage.ready(session) }
	if err := j.serve(r, m); err != nil {
		return err
	}
	return lostStorage(context.Cause(j.ctx), session)
}

// begin confines the process and starts the TPM, in this order, so that no byte of a
// state, which may be a stranger's, reaches libtpms before. A device of CUSE appears
// with the TPM on, and then its pid file, which takes what confine takes away. It
// returns false if the TPM is not to be served.
func begin(ctx context.Context, cfg *config.Config, d device, session *keep.Session, t *emul.TPM, s *service, from origin, pid *pidFile) (bool, error) {
	if d.cuse == nil {
		if err := confine(cfg, s, from.path); err != nil {
			return false, err
		}
		return start(ctx, cfg, session, t, s, from.heritage)
	}
	if _, err := start(ctx, cfg, session, t, s, from.heritage); err != nil {
		return false, exitCode(cuseStart, err)
	}
	if err := appear(cfg, d.cuse, pid); err != nil {
		return false, err
	}
	return true, confine(cfg, s, from.path)
}

// confine takes from the process what it does not need any more, and says what
// there is of that. profile is read again by a reload, unless it is "".
func confine(cfg *config.Config, s *service, profile string) error {
	if err := confineQuietly(cfg, s, profile); err != nil {
		return err
	}
	if err := s.confined.Missing; err != nil {
		s.log.Warnf("sandbox: %v", err)
	}
	s.log.Debugf("sandbox: %v", s.confined)
	for _, path := range s.confined.Stays {
		s.log.Debugf("sandbox: %q stays at the end: others have files in the same directory; choose a directory of the TPM's own", path)
	}
	return nil
}

// confineQuietly is confine without a word.
func confineQuietly(cfg *config.Config, s *service, profile string) (err error) {
	libtpms.Warm()
	s.confined, err = sandbox.Enter(sandbox.Plan(cfg, profile))
	return cuseCode(cfg, cuseSandbox, err)
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

// start puts the TPM where the process before this one has left it, or powers it
// on. It returns false if the TPM is not to be served.
func start(ctx context.Context, cfg *config.Config, session *keep.Session, t *emul.TPM, s *service, h *heritage) (bool, error) {
	resumed := false
	if session.Old() {
		var err error
		if resumed, err = resume(ctx, h, t, s); err != nil {
			return false, err
		}
	}
	if !resumed || !t.WasReady() {
		if on, err := powerOn(t, cfg.Flags, s.log); err != nil || !on {
			return false, err
		}
	}
	t.Ready()
	return true, nil
}

// powerOn brings the TPM up unless a client is to do that. It returns false if
// the TPM is not to be served. The process before this one may have been killed on
// the way: a TPM that had its startup then refuses another one, and is none the worse.
func powerOn(t *emul.TPM, f config.Flags, log *daemon.Log) (bool, error) {
	if f.Startup == "deactivated" && t.Version() == tpm.V20 {
		// Compat: swtpm says so and ends well.
		log.Error("TPM 2 does not support startup deactivated.")
		return false, nil
	}
	if !f.NotNeedInit {
		return true, nil
	}
	if !t.On() {
		if err := t.Init(false); err != nil {
			return false, silent(err) // Init has told why
		}
	}
	if f.Startup == "" || f.Startup == "none" {
		return true, nil
	}
	return true, t.Startup(f.Startup)
}

func version(cfg *config.Config) tpm.Version {
	if cfg.TPM == "1.2" {
		return tpm.V12
	}
	return tpm.V20
}

// awaitKeys is readKeys until ctx ends: a key may come through a pipe, whose
// writer takes its time. What is read after that stays behind, in locked memory,
// for the process is to end.
func awaitKeys(ctx context.Context, cfg *config.Config) (seal.Keys, error) {
	if cfg.Key.Source == config.NoKey && cfg.MigrationKey.Source == config.NoKey {
		return seal.Keys{}, nil
	}
	return await(ctx, func() (seal.Keys, error) { return readKeys(cfg) })
}

// await returns what f does, or the error of ctx if that ends first.
func await[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// unlessEnding is err, or nil if the process is to end: who feeds a key or a
// profile through a pipe may never come, and that is no failure then.
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

// keyAdvice is what a person can do about a key file that cannot be opened.
func keyAdvice(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "; correct the path, or restore the file"
	case errors.Is(err, fs.ErrPermission):
		return "; let this user read the file, or, in a unit, pass it with LoadCredential= and [key] credential"
	}
	return ""
}

// tellWarnings tells by warn what the user should know of the key that an option
// names, if there is one.
func tellWarnings(option string, k *seal.Key, warn func(format string, args ...any)) {
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
