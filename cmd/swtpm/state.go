package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/offline"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// stateVerbs are the subcommands of swtpm state. targetFlags may replace PROFILE.
var stateVerbs = []verb{
	{name: "inspect", synopsis: "state inspect [--json] [--ek] PROFILE|--tpmstate SUBOPTIONS", operand: "PROFILE", most: 1, prepare: stateInspect,
		summary: "Show the stored TPM state. Works without the key, with less detail."},
	{name: "verify", synopsis: "state verify PROFILE|--tpmstate SUBOPTIONS", operand: "PROFILE", most: 1, prepare: stateVerify,
		summary: "Decode the whole state and start libtpms with it. Change nothing. Exit with 1 if the state is damaged."},
	{name: "rekey", synopsis: "state rekey --new-key KEY|--no-key|--accept-version-1 PROFILE|--tpmstate SUBOPTIONS", operand: "PROFILE", most: 1, finishes: true, prepare: stateRekey,
		summary: "Encrypt the state with another key, or decrypt it: all of it, or nothing."},
	{name: "export", synopsis: "state export [OPTION]... PROFILE|--tpmstate SUBOPTIONS FILE", operand: "FILE", least: 1, most: 2, finishes: true, prepare: stateExport,
		summary: "Write the state to FILE, which must not exist."},
	{name: "import", synopsis: "state import [OPTION]... PROFILE|--tpmstate SUBOPTIONS FILE", operand: "FILE", least: 1, most: 2, finishes: true, prepare: stateImport,
		summary: "Create the TPM of an exported FILE, encrypted with the key that PROFILE or --key names."},
	{name: "snapshot", synopsis: "state snapshot [OPTION]... PROFILE|--ctrl SOCKET FILE", operand: "FILE", least: 1, most: 2, finishes: true, prepare: stateSnapshot,
		summary: "Write the state of a running TPM at one moment to FILE, which must not exist. state import restores it."},
	{name: "clone", synopsis: "state clone [OPTION]... SRC DST [-- SWTPM_SETUP-OPTION...]", operand: "SRC", second: "DST", least: 2, most: -1, prepare: stateClone,
		summary: "Copy a TPM that is off. SRC and DST are profiles, dir://PATH, file://PATH or store://NAME. SRC does not change."},
	{name: "pull", synopsis: "state pull [OPTION]... NAME DIRECTORY", operand: "NAME", second: "DIRECTORY", least: 2, most: 2, prepare: statePull,
		summary: "Copy the state NAME of a cluster store to files, without a broker, in an emergency. See swtpm-store(8), PULL."},
	{name: "accept", synopsis: "state accept PROFILE|--tpmstate SUBOPTIONS", operand: "PROFILE", most: 1, finishes: true, prepare: stateAccept,
		summary: "Declare the state, as it is, as the newest: starts no longer report that it is old or mixed."},
	{name: "reset-lockout", synopsis: "state reset-lockout PROFILE|--tpmstate SUBOPTIONS", operand: "PROFILE", most: 1, finishes: true, prepare: stateResetLockout,
		summary: "Set the number of failed authorizations of a TPM 2.0 to zero. Crashes of the host count as failed authorizations."},
	{name: "rollback", synopsis: "state rollback [--generation N] [--list] [--drop-volatile] PROFILE|--tpmstate SUBOPTIONS", operand: "PROFILE", most: 1, finishes: true, prepare: stateRollback,
		summary: "Exchange the permanent state and the previous one, which requires a TPM with backup. In a cluster store, restore a stored generation."},
}

// stateUsage returns err as a usage error, with exit code 2.
func stateUsage(err error) error { return &program.ExitError{Code: 2, Err: err} }

// quietEngine returns libtpms without its own messages: the errors of this program contain
// the same information.
func quietEngine() (emul.Engine, error) {
	fd, err := daemon.OpenDiscard() // stays open until the process ends
	if err != nil {
		return nil, err
	}
	libtpms.Debug(fd, 0, "")
	return libtpms.Engine(), nil
}

// openWithEngine opens the state of w, and returns libtpms, which can start with it.
func (w *stateTarget) openWithEngine(how access) (*offline.State, emul.Engine, error) {
	e, err := quietEngine()
	if err != nil {
		return nil, nil, err
	}
	s, err := w.open(how)
	return s, e, err
}

func stateInspect(f *pflag.FlagSet) action {
	w := targetFlags(f)
	asJSON := f.Bool("json", false, "print JSON")
	ek := f.Bool("ek", false, "print the endorsement keys and their certificates instead")
	return w.action(0, func() error {
		if *ek {
			return printEKs(w, *asJSON)
		}
		return inspectState(w, *asJSON)
	})
}

func inspectState(w *stateTarget, asJSON bool) error {
	s, err := w.open(access{})
	if err != nil {
		return err
	}
	defer s.Close()
	r, err := s.Inspect()
	if err != nil {
		return w.explain(err)
	}
	if !asJSON {
		return say("%s", r.Text())
	}
	return printJSON(r)
}

func printJSON(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return say("%s\n", b)
}

// printEKs prints public keys and certificates in PEM, each after a line that describes it,
// as openssl reads them.
func printEKs(w *stateTarget, asJSON bool) error {
	s, e, err := w.openWithEngine(access{})
	if err != nil {
		return err
	}
	defer s.Close()
	keys, err := s.EKs(e)
	if err != nil {
		return w.explain(err)
	}
	if len(keys) == 0 {
		warnf("%s: the TPM has no endorsement key", w.where)
	}
	if asJSON {
		return printJSON(keys)
	}
	for _, k := range keys {
		if err := say("EK %s at %s, SHA-256 %s\n%s%s", k.Algorithm, k.Handle, k.Fingerprint, k.PublicKey, k.Certificate); err != nil {
			return err
		}
	}
	return nil
}

func stateVerify(f *pflag.FlagSet) action {
	w := targetFlags(f)
	return w.action(0, func() error { return verifyState(w) })
}

func verifyState(w *stateTarget) error {
	s, e, err := w.openWithEngine(access{})
	if err != nil {
		return err
	}
	defer s.Close()
	names, err := s.Verify(e)
	if err != nil {
		return doctor.AppendRemedy(err, w.remedies().State(err))
	}
	err = say("%s: TPM %s: ok (%s)\n", w.where, s.Version(), strings.Join(names, ", "))
	return err
}

func stateRekey(f *pflag.FlagSet) action {
	w := targetFlags(f)
	arg := f.String("new-key", "", "encrypt with `KEY`, which has the syntax of --key")
	none := f.Bool("no-key", false, "store the state unencrypted")
	version1 := f.Bool("accept-version-1", false, "convert encrypted files of version 1, which have no MAC; with the same key unless another is given")
	return w.action(0, func() error {
		keepKey := *version1 && *arg == "" && !*none
		if !keepKey && (*arg == "") != *none {
			return misused(f.Name(), errors.New("give either --new-key or --no-key"))
		}
		return rekeyState(w, *arg, keepKey, *version1)
	})
}

// rekeyState encrypts the state with the key that arg names; an empty arg decrypts it, and
// keepKey leaves the key unchanged. It accepts encrypted files of version 1 if version1 is
// true.
func rekeyState(w *stateTarget, arg string, keepKey, version1 bool) error {
	next, err := readKeyArg("new-key", arg)
	if err != nil {
		return err
	}
	if next != nil {
		defer next.Close()
	}
	s, err := w.open(access{write: true})
	if err != nil {
		return err
	}
	defer s.Close()
	if keepKey {
		next = w.key
	}
	names, err := s.Rekey(next, version1)
	if err != nil {
		return w.explain(err)
	}
	how := "is plain"
	if next != nil {
		key := "new key"
		if keepKey {
			key = "key"
		}
		how = fmt.Sprintf("is encrypted with the %s, AES-%d", key, next.Bits())
	}
	if len(names) == 0 {
		return say("%s: TPM %s: the state already %s\n", w.where, s.Version(), how)
	}
	if err := say("%s: TPM %s: the state now %s (%s)\n", w.where, s.Version(), how, strings.Join(names, ", ")); err != nil {
		return err
	}
	if next != nil && w.key != nil && w.cfg.State.Location.Kind == nv.Cluster {
		warnf("earlier stored generations still need the old key: keep it for swtpm state rollback; each later change of the permanent state removes the oldest one")
	}
	if next != nil && w.key == nil {
		warnf("%s; copies and snapshots contain it in any case", w.remains())
	}
	if w.profile != "" {
		warnf("change [key] in %s accordingly before the TPM starts", w.profile)
	}
	return nil
}

// remains describes where the plain state may still be after it was encrypted.
func (w *stateTarget) remains() string {
	if w.cfg.State.Location.Kind == nv.Cluster {
		return "the stored generations in the cluster store still contain the plain state until later ones replace them"
	}
	return "the disk may still contain freed blocks of the plain state"
}

func stateAccept(f *pflag.FlagSet) action {
	w := targetFlags(f)
	return w.action(0, func() error {
		log := openAudit()
		defer log.close()
		s, err := w.open(access{write: true})
		if err != nil {
			return err
		}
		defer s.Close()
		r, err := s.Accept()
		if err != nil {
			return w.explain(err)
		}
		return log.say(fmt.Sprintf("%s: TPM %s: accepted as generation %d of %s", w.where, s.Version(), r.Generation, r.Identity))
	})
}

func stateResetLockout(f *pflag.FlagSet) action {
	w := targetFlags(f)
	return w.action(0, func() error { return resetLockout(w) })
}

// resetLockout sets the number of failed authorizations to zero. It also writes to the system's log,
// because another administrator may have to know it.
func resetLockout(w *stateTarget) error {
	log := openAudit()
	defer log.close()
	s, e, err := w.openWithEngine(access{write: true})
	if err != nil {
		return err
	}
	defer s.Close()
	failed, limit, err := s.ResetLockout(e)
	if err != nil {
		return w.explain(err)
	}
	return log.say(fmt.Sprintf("%s: TPM %s: %d failed authorizations of %d reset to 0", w.where, s.Version(), failed, limit))
}

func stateRollback(f *pflag.FlagSet) action {
	w := targetFlags(f)
	drop := f.Bool("drop-volatile", false, "remove a volatile or saved state of the newer generation")
	n := f.Uint64("generation", 0, "restore the stored generation `N` of a cluster store; default: the second newest")
	list := f.Bool("list", false, "list the stored generations of a cluster store, and change nothing")
	return w.action(0, func() error {
		switch cluster := w.cfg.State.Location.Kind == nv.Cluster; {
		case !cluster && (*n != 0 || *list):
			return misused(f.Name(), fmt.Errorf("--generation and --list are for a cluster store; %s has one previous generation at most", w.where))
		case *list:
			return listGenerations(w)
		case cluster:
			return restoreState(w, *n, *drop)
		}
		return rollbackState(w, *drop)
	})
}

// listGenerations prints one line for each stored generation: the number, the time, the host and the
// program that stored it, its TPM, and what prevents a rollback to it.
func listGenerations(w *stateTarget) error {
	s, err := w.open(access{})
	if err != nil {
		return err
	}
	defer s.Close()
	all, err := s.History()
	if err != nil {
		return err
	}
	for _, g := range all {
		if err := say("%d  %s\n", g.Number, program.PrintableLine(aboutGeneration(g))); err != nil {
			return err
		}
	}
	return nil
}

// aboutGeneration describes a stored generation.
func aboutGeneration(g offline.StoredGeneration) string {
	r := g.Record
	if g.Err != nil {
		return "unreadable: " + g.Err.Error()
	}
	about := fmt.Sprintf("%s  %s  %s  TPM %.8s", r.Time.UTC().Format(time.RFC3339), r.Writer.Host, r.Writer.Program, r.Identity.String())
	if r.Generation != g.Number {
		about += fmt.Sprintf("  (contains generation %d)", r.Generation)
	}
	if g.OtherTPM {
		about += "  (another TPM)"
	}
	switch {
	case errors.Is(g.Sealed, seal.ErrMAC), errors.Is(g.Sealed, seal.ErrNoKey), errors.Is(g.Sealed, seal.ErrKeySize),
		errors.Is(g.Sealed, seal.ErrEncrypted), errors.Is(g.Sealed, seal.ErrNotEncrypted):
		about += "  (needs another key)"
	case g.Sealed != nil:
		about += "  (damaged)"
	}
	return about
}

// restoreState makes a stored generation the newest one. It also writes to the system's log.
func restoreState(w *stateTarget, n uint64, drop bool) error {
	log := openAudit()
	defer log.close()
	s, e, err := w.openWithEngine(access{write: true})
	if err != nil {
		return err
	}
	defer s.Close()
	n, lost, err := s.Restore(e, n, drop)
	if err != nil {
		return w.explain(err)
	}
	if err := log.say(fmt.Sprintf("%s: TPM %s: stored generation %d is restored", w.where, s.Version(), n)); err != nil {
		return err
	}
	if lost {
		warnf("%s", laterLost)
	}
	return nil
}

// laterLost is the warning after a rollback.
const laterLost = "all later changes of the TPM are lost: new keys and NV data, increased counters; a guest that sealed to them (BitLocker, LUKS) may ask for its recovery key"

func rollbackState(w *stateTarget, drop bool) error {
	if w.cfg.State.Location.Kind != nv.Directory {
		return fmt.Errorf("%s has no previous generation; only a directory with backup has one", w.where)
	}
	s, e, err := w.openWithEngine(access{write: true, backup: true})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Rollback(e, drop); err != nil {
		return w.explain(err)
	}
	if err := say("%s: TPM %s: the previous generation is restored; a second rollback undoes this\n", w.where, s.Version()); err != nil {
		return err
	}
	warnf("%s", laterLost)
	return nil
}
