package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/backend"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/offline"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// stateTarget is the TPM that a verb of swtpm state works on. A profile names it, or the
// options --tpmstate, --key and --tpm.
type stateTarget struct {
	flags    *pflag.FlagSet
	files    []string // operands after the profile
	tpmstate string
	keyArg   string
	version  string // --tpm
	seccomp  string
	instance string

	profile string // the file, "" if options name the TPM
	where   string // for messages
	cfg     *config.Config
	key     *seal.Key // set by open; not closed: the process ends with the verb

	migration *seal.Key // of a snapshot that is imported; nil if it needs none
}

// targetFlags declares the options that name the TPM.
func targetFlags(f *pflag.FlagSet) *stateTarget {
	w := &stateTarget{flags: f}
	f.StringVar(&w.tpmstate, "tpmstate", "", "use the state that `SUBOPTIONS` name, as for swtpm socket")
	f.StringVar(&w.keyArg, "key", "", "use the key that `SUBOPTIONS` name, as for swtpm socket, instead of the profile's")
	f.StringVar(&w.version, "tpm", "", "select the TPM of `VERSION` 1.2 or 2.0; default: the profile's, or the stored one")
	f.StringVar(&w.seccomp, "seccomp", "", "handle system calls that only an attacker makes as `SUBOPTIONS` say, as for swtpm socket")
	f.StringVar(&w.instance, "instance", "", "replace %i in the profile with `NAME`; default: the profile's name")
	return w
}

// remedies returns whether remedies name options of the command line or keys of the profile.
func (w *stateTarget) remedies() doctor.Remedies {
	if w.profile == "" {
		return doctor.CommandLine
	}
	return doctor.Profile
}

// action returns the action that finds the TPM and calls act. files is the number of operands
// after the profile.
func (w *stateTarget) action(files int, act func() error) action {
	return func(_ context.Context, args []string) error {
		if err := w.parse(args, files); err != nil {
			return err
		}
		// An archive or a passphrase may be read before the key.
		if err := sandbox.Harden(); err != nil {
			return err
		}
		return act()
	}
}

// parse parses the operands. The last ones are files; files is their number.
func (w *stateTarget) parse(args []string, files int) error {
	profile := ""
	var version tpm.Version // 0: not named
	var err error
	if w.version != "" && version.UnmarshalText([]byte(w.version)) != nil {
		return misused(w.flags.Name(), fmt.Errorf("--tpm %q: unknown version; use 1.2 or 2.0", w.version))
	}
	switch {
	case w.tpmstate != "" && len(args) == files+1:
		err = fmt.Errorf("unexpected argument %q: give a PROFILE or --tpmstate, not both", args[0])
	case w.tpmstate == "" && files == 1 && len(args) == 1 && os.Getenv("TPM_PATH") == "":
		err = fmt.Errorf("%q is the only argument: give PROFILE and FILE, or --tpmstate and FILE", args[0])
	case w.tpmstate == "" && len(args) == files && os.Getenv("TPM_PATH") == "":
		err = errors.New("missing PROFILE argument or --tpmstate")
	case len(args) == files+1:
		profile, args = args[0], args[1:]
	}
	if err != nil {
		return misused(w.flags.Name(), err)
	}
	w.files = args
	if err := w.configure(profile, version); err != nil {
		return err
	}
	if err := config.ParseSeccomp(w.seccomp, &w.cfg.Sandbox); err != nil {
		return stateUsage(err)
	}
	return nil
}

// stateHint returns a hint if profile is not a profile, but the URI of a state, as in log
// lines, or its directory.
func stateHint(profile string) string {
	if kind := nv.ParseLocation(profile).Kind; kind == nv.Directory || kind == nv.File {
		return "; to name the state instead of a profile, write --tpmstate backend-uri=" + profile
	}
	if fi, err := os.Stat(profile); err == nil && fi.IsDir() {
		return "; to name the state instead of a profile, write --tpmstate dir=" + profile
	}
	return ""
}

// configure fills cfg. A version that is not 0 replaces the profile's.
func (w *stateTarget) configure(profile string, version tpm.Version) error {
	if profile == "" {
		cfg, err := config.Storage(w.tpmstate, w.keyArg, os.Getenv)
		if err != nil {
			return stateUsage(err)
		}
		cfg.TPM = version
		w.cfg, w.where = cfg, cfg.State.Location.String()
		return nil
	}
	cfg, err := load(profile, w.instance)
	if err != nil {
		return fmt.Errorf("%w%s", err, stateHint(profile))
	}
	if root := cfg.Sandbox.Chroot; root != "" {
		// The paths are relative to root. Joined to it, a link in them could lead
		// outside; without it they may belong to another TPM.
		return fmt.Errorf("%s: its paths are relative to [sandbox] chroot, %s; name the state with --tpmstate and its key with --key, with paths from outside", profile, root)
	}
	changed := *cfg
	if w.keyArg != "" {
		if changed.Key, err = config.ParseKey(w.keyArg); err != nil {
			return stateUsage(err)
		}
	}
	if version != 0 {
		changed.TPM = version
	}
	if changed.State.Location.Kind == nv.None {
		return fmt.Errorf("%s: missing [tpmstate] dir", profile)
	}
	w.cfg, w.profile, w.where = &changed, profile, changed.State.Location.String()
	return nil
}

// access is how a state is opened.
type access struct {
	write  bool
	backup bool     // exchange the previous generation
	out    *newFile // another open file; or nil
}

// open reads the key, opens the state, and confines the process: the state may be
// malicious, and the user is often root. All other files of the verb must be open before.
func (w *stateTarget) open(how access) (*offline.State, error) {
	s, err := w.openUnconfined(how)
	if err != nil {
		return nil, err
	}
	if err := w.confine(how); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// confine removes the rights that the rest of the verb does not need.
func (w *stateTarget) confine(how access) error {
	out := ""
	if how.out != nil {
		out = how.out.path
	}
	libtpms.LoadOpenSSL()
	a, err := sandbox.Enter(sandbox.PlanOffline(w.cfg, how.write, out))
	if err != nil {
		return err
	}
	if a.Missing != nil {
		warnf("sandbox: %v", a.Missing)
	}
	return nil
}

// openUnconfined reads the key and opens the state, without confining the process.
func (w *stateTarget) openUnconfined(how access) (*offline.State, error) {
	c := w.cfg.Key
	c.Remove = false // only the emulator removes it; another verb may need the key again
	var err error
	if w.key, err = readKey("key", c); err != nil {
		return nil, err
	}
	logKeyWarnings("key", w.key, warnf)
	s, err := offline.Open(offline.Options{
		Open: func(prefix string, ro bool) (nv.Backend, error) {
			o := w.cfg.State.Storage()
			o.Lock, o.Backup, o.Relaxed = true, how.backup, false
			o.Prefix, o.ReadOnly, o.Adopt, o.Warn = prefix, ro, true, warnf
			return backend.Open(w.cfg.State.Location, o)
		},
		Where:   w.where,
		Writer:  generation.ThisHost(program.Name),
		Mark:    w.readMark(),
		Version: w.cfg.TPM,
		Key:     w.key,

		Location:  w.cfg.State.Location,
		Plain:     w.cfg.State.Plain,
		Migration: w.migration,
		ReadOnly:  !how.write,
	})
	if errors.Is(err, fs.ErrNotExist) && w.cfg.State.Location.Kind == nv.Directory {
		return nil, doctor.AppendRemedy(err, w.remedies().State(err))
	}
	return s, w.explain(err)
}

// explain returns err, which concerns the stored state, with its remedy if one is known.
func (w *stateTarget) explain(err error) error {
	switch {
	case isSealed(err):
		return doctor.AppendRemedy(err, w.remedies().State(err))
	case errors.Is(err, offline.ErrNone) && w.profile == "":
		return doctor.AppendRemedy(err, "correct --tpmstate, or create the TPM with swtpm_setup or its first start")
	case errors.Is(err, offline.ErrNone):
		return doctor.AppendRemedy(err, "correct [tpmstate], or create the TPM with swtpm_setup or its first start")
	}
	return w.explainAccess(err)
}

// explainAccess returns err with a remedy if libtpms is too old for the state, or if the operating system refused
// an access to something that exists. The other errors of the verbs name what to do themselves.
func (w *stateTarget) explainAccess(err error) error {
	_, old := errors.AsType[*emul.TooNewError](err)
	_, refused := errors.AsType[syscall.Errno](err)
	if old || refused && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, nv.ErrLocked) {
		return doctor.AppendRemedy(err, w.remedies().State(err))
	}
	return err
}

// isSealed reports whether err concerns the key or the contents of a stored item.
func isSealed(err error) bool {
	for _, kind := range []error{seal.ErrMAC, seal.ErrNotEncrypted, seal.ErrEncrypted, seal.ErrKeySize, seal.ErrNoKey,
		seal.ErrVersion1, seal.ErrVersion, seal.ErrChecksum, seal.ErrContent, seal.ErrLength, seal.ErrHeader} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// readKeyArg reads the key that the argument of an option names, nil for "".
func readKeyArg(option, arg string) (*seal.Key, error) {
	c, err := config.ParseKey(arg)
	if err != nil {
		return nil, stateUsage(fmt.Errorf("--%s: %w", option, err))
	}
	c.Remove = false
	k, err := readKey(option, c)
	if err == nil {
		logKeyWarnings(option, k, warnf)
	}
	return k, err
}
