package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/offline"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// passFlags are the options that name the passphrase of an archive.
type passFlags struct {
	file string
	fd   int
}

func addPassFlags(f *pflag.FlagSet) *passFlags {
	p := &passFlags{}
	f.StringVar(&p.file, "passphrase-file", "", "read the passphrase of the archive from `FILE`; ignore a newline at its end")
	f.IntVar(&p.fd, "passphrase-fd", -1, "read the passphrase from the open descriptor `N`")
	return p
}

// read returns the passphrase, nil if no option names one.
func (p *passFlags) read() (*seal.Passphrase, error) {
	switch {
	case p.file != "" && p.fd >= 0:
		return nil, stateUsage(errors.New("give either --passphrase-file or --passphrase-fd"))
	case p.file == "" && p.fd < 0:
		return nil, nil
	}
	pass, err := seal.ReadPassphrase(p.file, p.fd)
	if err != nil {
		return nil, doctor.AppendRemedy(err, doctor.Input(err))
	}
	for _, text := range pass.Warnings() {
		warnf("%s", text)
	}
	return pass, nil
}

// passBytes returns the passphrase, nil if there is none.
func passBytes(p *seal.Passphrase) []byte {
	if p == nil {
		return nil
	}
	return p.Bytes()
}

func stateExport(f *pflag.FlagSet) action {
	w := targetFlags(f)
	pf := addPassFlags(f)
	sealed := f.Bool("sealed", false, "export an encrypted state without decrypting it; the default without a key")
	plain := f.Bool("plain", false, "export an encrypted state decrypted, without a passphrase")
	return w.action(1, func() error {
		if *sealed && *plain {
			return misused(f.Name(), errors.New("give either --sealed or --plain"))
		}
		return exportState(w, pf, *sealed, *plain)
	})
}

func exportState(w *stateTarget, pf *passFlags, sealed, plain bool) (err error) {
	pass, err := pf.read()
	if err != nil {
		return err
	}
	defer pass.Close()
	// Check this before the file is created, because the sandbox does not allow to remove a file in
	// a directory that others use.
	if w.cfg.Key.Source != config.NoKey && !sealed && !plain && pass == nil {
		return fmt.Errorf("%s is encrypted, and the archive would contain it in the clear; give --passphrase-file, or --sealed to leave it encrypted, or --plain", w.where)
	}
	out, err := createNew(w.files[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.close()) }()
	s, err := w.open(access{out: out})
	if err != nil {
		return err
	}
	defer s.Close()
	encrypted, err := s.Encrypted()
	if err != nil {
		return w.explain(err)
	}
	if encrypted && w.key == nil {
		sealed = true
	}
	a, err := s.Export(sealed, "swtpm-go "+program.Version)
	if err != nil {
		return w.explain(err)
	}
	defer a.Wipe()
	b, err := a.Encode(passBytes(pass))
	if err != nil {
		return err
	}
	defer seal.Wipe(b)
	if err := out.write(b); err != nil {
		return err
	}
	err = say("%s: TPM %s: exported to %s, %s (%s)\n", w.where, s.Version(), w.files[0], protection(a, pass), strings.Join(a.Kinds(), ", "))
	if err == nil && !a.Sealed && pass == nil {
		warnf("%s contains the secrets of the TPM in the clear", w.files[0])
	}
	return err
}

// protection describes how an archive is protected.
func protection(a *offline.Archive, pass *seal.Passphrase) string {
	switch {
	case a.Sealed && pass != nil:
		return "under its key and the passphrase"
	case a.Sealed:
		return "under its key"
	case pass != nil:
		return "under the passphrase"
	}
	return "in the clear"
}

func stateImport(f *pflag.FlagSet) action {
	w := targetFlags(f)
	pf := addPassFlags(f)
	v := &importVerb{stateTarget: w, pass: pf}
	f.BoolVar(&v.replace, "replace", false, "replace an existing TPM, which is lost")
	f.BoolVar(&v.noVolatile, "no-volatile", false, "restore the permanent state only: the TPM starts as after a power cut")
	f.StringVar(&v.migrationKey, "migration-key", "", "open a snapshot with the key that `SUBOPTIONS` name, as for swtpm socket, instead of the profile's")
	return w.action(1, v.run)
}

// importVerb is swtpm state import.
type importVerb struct {
	*stateTarget
	pass         *passFlags
	replace      bool
	noVolatile   bool
	migrationKey string
}

// readArchive reads the archive, without its volatile state if --no-volatile is given, and the
// migration key if the archive is a snapshot.
func (w *importVerb) readArchive() (*offline.Archive, error) {
	pass, err := w.pass.read()
	if err != nil {
		return nil, err
	}
	defer pass.Close()
	b, err := safefile.ReadInput(w.files[0], offline.MaxArchive)
	if err != nil {
		return nil, doctor.AppendRemedy(err, doctor.Input(err))
	}
	defer seal.Wipe(b)
	a, err := offline.Decode(b, passBytes(pass))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.files[0], err)
	}
	if w.noVolatile {
		a.DropVolatile()
	}
	switch {
	case !a.Snapshot:
	case w.migrationKey != "":
		w.migration, err = readKeyArg("migration-key", w.migrationKey)
	default:
		c := w.cfg.MigrationKey
		c.Remove = false
		w.migration, err = readKey("migration-key", c)
	}
	return a, err
}

func (w *importVerb) run() error {
	a, err := w.readArchive()
	if err != nil {
		return err
	}
	defer a.Wipe()
	if w.cfg.TPM == 0 {
		w.cfg.TPM = a.Version
	}
	if err := makeOwnStateDir(w.cfg); err != nil {
		return err
	}
	s, e, err := w.openWithEngine(access{write: true})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Import(a, e, w.replace); err != nil {
		return w.explainAccess(fmt.Errorf("%s: %w", w.files[0], err)) // err may concern the key of the archive
	}
	how := "plain"
	if w.key != nil {
		how = fmt.Sprintf("under the key, AES-%d", w.key.Bits())
	}
	err = say("%s: TPM %s: imported from %s, %s (%s)\n", w.where, s.Version(), w.files[0], how, strings.Join(a.Kinds(), ", "))
	return err
}

// makeOwnStateDir calls makeStateDir, but fails if root would create a directory that the
// profile's user could not enter.
func makeOwnStateDir(cfg *config.Config) error {
	dir, ok := cfg.State.Location.Dir()
	if _, err := os.Stat(dir); ok && cfg.State.Create && cfg.Sandbox.User != "" && os.Geteuid() == 0 && errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s does not exist; create it for the user %q", dir, cfg.Sandbox.User)
	}
	return makeStateDir(cfg)
}

// newFile is a file that a verb creates for its owner only. It is created before the
// process is confined, and written afterwards.
type newFile struct {
	path    string
	dir     *safefile.Dir
	f       *safefile.File
	written bool
}

// createNew creates the file path. It fails if the file exists, unless an interrupted verb left it;
// see openEmpty.
func createNew(path string) (n *newFile, err error) {
	n = &newFile{path: path}
	if n.dir, err = safefile.OpenWith(filepath.Dir(path), safefile.Options{}); err != nil {
		return nil, doctor.AppendRemedy(err, doctor.Path(err))
	}
	n.f, err = n.dir.Create(filepath.Base(path), 0o600)
	if err == nil {
		_ = unix.Flock(int(n.f.Fd()), unix.LOCK_EX|unix.LOCK_NB) // see openEmpty; some file systems have no locks
	} else if errors.Is(err, os.ErrExist) {
		if f := n.openEmpty(); f != nil {
			n.f, err = f, nil
		}
	}
	if err == nil {
		return n, nil
	}
	_ = n.dir.Close()
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s already exists; remove it or name another file", path)
	}
	return nil, doctor.AppendRemedy(err, doctor.Output(err))
}

// openEmpty opens and locks the existing file if a verb could have left it: it is empty, belongs to
// this user, and only the owner has access. The lock excludes a verb that still runs.
func (n *newFile) openEmpty() *safefile.File {
	name := filepath.Base(n.path)
	f, err := n.dir.Open(name, os.O_RDWR)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || unix.Fstat(int(f.Fd()), &st) != nil || !n.dir.Same(name, f) ||
		st.Size != 0 || st.Mode&0o777 != 0o600 || st.Nlink != 1 || int(st.Uid) != os.Geteuid() {
		_ = f.Close()
		return nil
	}
	return f
}

// write writes b, and waits until the file is on the disk.
func (n *newFile) write(b []byte) error {
	_, err := n.f.Write(b)
	if err == nil {
		err = n.f.Sync()
	}
	if err == nil {
		err = n.dir.Sync()
	}
	n.written = err == nil
	return doctor.AppendRemedy(err, doctor.Output(err))
}

// close removes the file if it is incomplete, and closes it. The lock of the file lasts until it
// is closed.
func (n *newFile) close() error {
	var err error
	if !n.written {
		err = n.remove()
	}
	if cerr := n.f.Close(); cerr != nil {
		err = errors.Join(cerr, err)
		if n.written {
			err = errors.Join(err, n.remove())
		}
	}
	return errors.Join(err, n.dir.Close())
}

func (n *newFile) remove() error {
	if err := n.dir.Remove(filepath.Base(n.path)); err != nil {
		return fmt.Errorf("%s is incomplete; remove it: %w", n.path, err)
	}
	return nil
}
