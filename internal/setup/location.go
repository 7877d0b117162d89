package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/backend"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// location is the location of the state of a TPM.
type location struct {
	nv.Location
	path    string
	version tpm.Version
	warn    func(format string, args ...any)
	create  bool       // create a missing directory
	options nv.Options // for the backend
	begun   time.Time  // time in the mark of begin; zero without a mark

	b nv.Backend // opened and locked; nil before open
}

// parseLocation parses --tpm-state.
func parseLocation(s string, v tpm.Version) *location {
	l := nv.ParseLocation(s)
	if l.Kind == nv.None || l.Kind == nv.Unsupported {
		l = nv.Location{Kind: nv.Directory, Path: s}
	}
	return &location{Location: l, path: l.Path, version: v}
}

func (l *location) isDir() bool { return l.Kind == nv.Directory }

// check checks that the location is accessible. It changes nothing.
func (l *location) check() error {
	if l.Kind == nv.Cluster {
		return nil // open asks the broker
	}
	if !l.isDir() {
		err := unix.Access(l.path, unix.R_OK|unix.W_OK)
		if err == nil || err == unix.ENOENT && unix.Access(filepath.Dir(l.path), unix.W_OK|unix.X_OK) == nil {
			return nil
		}
		return cli.Complain("User %s cannot access file %s: %s", cli.UserName(), l.path, cli.Strerror(err))
	}
	if l.missing() {
		return nil
	}
	if err := checkDir(l.path); err != nil {
		return err
	}
	lock := filepath.Join(l.path, ".lock")
	if err := unix.Access(lock, unix.R_OK|unix.W_OK); err != nil && err != unix.ENOENT {
		return cli.Complain("User %s cannot read/write lockfile %s: %s. %s", cli.UserName(), lock, cli.Strerror(err), accessRemedy(err))
	}
	return nil
}

// checkDir checks that path is a readable and writable directory.
func checkDir(path string) error {
	st, err := os.Stat(path)
	if err != nil || !st.IsDir() {
		return cli.Complain("User %s cannot access directory %s. Make sure it exists and is a directory.", cli.UserName(), path)
	}
	if err := unix.Access(path, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return cli.Complain("User %s cannot read from or write to directory %s: %s. %s", cli.UserName(), path, cli.Strerror(err), accessRemedy(err))
	}
	return nil
}

// accessRemedy returns what to do if access(2) fails.
func accessRemedy(err error) string {
	if err == unix.EROFS {
		return "Mount the file system writable, or choose another directory."
	}
	return "Run this as its owner, or change that with chown."
}

// items are the items of a stored TPM, the most important one first.
var items = []string{nv.Permanent, nv.Volatile, nv.Savestate}

// existing returns the name of the first stored item, "" if there is none. It changes
// nothing. After open it uses the locked backend.
func (l *location) existing() (string, error) {
	if l.b != nil {
		return l.find(l.b)
	}
	b, err := backend.Open(l.Location, nv.Options{Prefix: l.version.FilePrefix(), DryRun: true, Warn: l.warn})
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer b.Close()
	return l.find(b)
}

// find returns the name of the first item in b, "" if there is none.
func (l *location) find(b nv.Backend) (string, error) {
	s, ok := b.(nv.StatBackend)
	if !ok {
		return "", fmt.Errorf("%s: cannot list the stored items: %w", l.Location, errors.ErrUnsupported)
	}
	for _, name := range items {
		_, err := s.Stat(l.version.FilePrefix() + name)
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", nil
}

// open opens and locks the location. It creates only the lock file or an empty file for
// the state.
func (l *location) open() error {
	if err := l.makeDir(); err != nil {
		return err
	}
	o := l.options
	o.Prefix, o.Lock, o.Warn = l.version.FilePrefix(), true, l.warn
	b, err := backend.Open(l.Location, o)
	if err != nil {
		return err
	}
	if err := b.Lock(); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", l.Location, err), b.Close())
	}
	l.b = b
	return nil
}

// commit stores the permanent state. If isNew is true, it also removes the other items and the
// boot ledger, which belong to the previous TPM.
func (l *location) commit(sealed []byte, isNew bool) error {
	err := l.store(sealed, isNew)
	if err == nil && isNew {
		l.removeLedger()
	}
	return err
}

// store does the same as commit, but leaves the boot ledger. It stores in one step: after a crash
// the disk has either the new or the old state.
func (l *location) store(sealed []byte, isNew bool) error {
	name := l.version.FilePrefix() + nv.Permanent
	changes := []nv.Change{{Name: name, Blob: sealed}}
	l.number(sealed)
	if isNew {
		old, err := l.others()
		if err != nil {
			return err
		}
		changes = append(changes, old...)
		if len(old) == 0 {
			found, err := l.existing()
			if err != nil {
				return err
			}
			if found == "" { // two syncs instead of the six of a batch
				return l.b.Store(name, sealed)
			}
		}
	}
	return nv.Apply(l.b, changes)
}

// last returns the highest generation of all TPMs that a cluster store has had under this name; 0
// for another storage.
func (l *location) last() uint64 {
	if b, ok := l.b.(nv.HistoryBackend); ok {
		if n, err := b.Last(); err == nil { // after an error, storing fails, too
			return n
		}
	}
	return 0
}

// number sets the generation under which a cluster store stores the state: the number in the
// record of sealed.
func (l *location) number(sealed []byte) {
	b, ok := l.b.(nv.LeaseBackend)
	if !ok {
		return
	}
	info, err := seal.DescribeFile(sealed)
	if err != nil {
		return
	}
	if r, err := generation.Decode(info.Record); err == nil {
		b.SetGeneration(r.Generation)
	}
}

// others returns the changes that remove all other items.
func (l *location) others() (changes []nv.Change, err error) {
	s, ok := l.b.(nv.StatBackend)
	if !ok {
		return nil, nil
	}
	names := items[1:]
	if l.isDir() {
		names = append(names[:len(names):len(names)], nv.Backup)
	}
	for _, name := range names {
		_, err := s.Stat(l.version.FilePrefix() + name)
		switch {
		case err == nil, l.Kind == nv.Cluster && errors.Is(err, nv.ErrDamaged): // some of the state exists
			changes = append(changes, nv.Change{Name: l.version.FilePrefix() + name})
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return changes, nil
}

// removeLedger removes the boot ledger of the TPM that is replaced. It logs a line if it cannot
// remove a file.
func (l *location) removeLedger() {
	dir, prefix := l.path, strings.TrimSuffix(l.version.FilePrefix(), ".")
	switch l.Kind {
	case nv.Directory:
	case nv.File:
		dir, prefix = filepath.Dir(l.path), filepath.Base(l.path)
	default:
		return
	}
	d, err := safefile.Open(dir)
	if err != nil {
		return // the state has no directory
	}
	defer d.Close()
	names, err := d.Names()
	for _, name := range names {
		if _, ok := ledger.ParseName(prefix, name); ok {
			err = errors.Join(err, d.Remove(name))
		}
	}
	if err != nil {
		l.warn("boot ledger of the previous TPM: %v", err)
	}
}

// close closes the location and releases the lock.
func (l *location) close() error {
	if l.b == nil {
		return nil
	}
	return l.b.Close()
}

// makeDir creates a missing state directory if the profile asks for it, and for a clone.
func (l *location) makeDir() error {
	if !l.create || !l.isDir() {
		return nil
	}
	if err := os.MkdirAll(l.path, 0o700); err != nil {
		return fmt.Errorf("create the state directory: %w", err)
	}
	return nil
}

// missing reports whether the state directory is missing and open can create it.
func (l *location) missing() bool {
	if !l.create || !l.isDir() {
		return false
	}
	_, err := os.Stat(l.path)
	above := filepath.Dir(l.path)
	for errors.Is(err, fs.ErrNotExist) {
		if _, up := os.Stat(above); !errors.Is(up, fs.ErrNotExist) || above == filepath.Dir(above) {
			return unix.Access(above, unix.W_OK|unix.X_OK) == nil
		}
		above = filepath.Dir(above)
	}
	return false
}
