package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/keyvalue"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/backend"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// place is where the state of a TPM is, or will be.
type location struct {
	nv.Location
	path    string
	version tpm.Version
	warn    func(format string, args ...any)
	create  bool       // a directory that is missing is made
	options nv.Options // how the state is stored
	begun   time.Time  // when the manufacture was marked as begun; zero if it was not

	b nv.Backend // locked; nil before open
}

// parseLocation reads --tpm-state.
func parseLocation(s string, v tpm.Version) *location {
	l := nv.ParseLocation(s)
	if l.Kind == nv.None || l.Kind == nv.Unsupported {
		l = nv.Location{Kind: nv.Directory, Path: s}
	}
	return &location{Location: l, path: l.Path, version: v}
}

func (l *location) isDir() bool { return l.Kind == nv.Directory }

// check makes sure that we may use the place, without a trace.
func (l *location) check() error {
	if !l.isDir() {
		err := unix.Access(l.path, unix.R_OK|unix.W_OK)
		if err == nil || err == unix.ENOENT && unix.Access(filepath.Dir(l.path), unix.W_OK|unix.X_OK) == nil {
			return nil
		}
		return cli.Complain("User %s cannot access file %s: %s", keyvalue.UserName(), l.path, cli.Strerror(err))
	}
	if l.missing() {
		return nil
	}
	if err := checkDir(l.path); err != nil {
		return err
	}
	lock := filepath.Join(l.path, ".lock")
	if err := unix.Access(lock, unix.R_OK|unix.W_OK); err != nil && err != unix.ENOENT {
		return cli.Complain("User %s cannot read/write lockfile %s. Run this as its owner, or change that with chown.", keyvalue.UserName(), lock)
	}
	return nil
}

// checkDir makes sure that path is a directory that we may read and write.
func checkDir(path string) error {
	st, err := os.Stat(path)
	if err != nil || !st.IsDir() {
		return cli.Complain("User %s cannot access directory %s. Make sure it exists and is a directory.", keyvalue.UserName(), path)
	}
	if unix.Access(path, unix.R_OK|unix.W_OK|unix.X_OK) != nil {
		return cli.Complain("User %s cannot read from or write to directory %s. Run this as its owner, or change that with chown.", keyvalue.UserName(), path)
	}
	return nil
}

// items are those of the TPM's version, with the backup that some backends keep.
var items = []string{nv.Permanent, nv.Volatile, nv.Savestate}

// existing returns the name of an item that is there, "permall" if that is; ""
// if there is none. It looks only, and after open under the lock.
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

func (l *location) find(b nv.Backend) (string, error) {
	s, ok := b.(nv.StatBackend)
	if !ok {
		return "", fmt.Errorf("%s: what is there cannot be told: %w", l.Location, errors.ErrUnsupported)
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

// open opens and locks the place. Nothing is changed but that the lock file, or
// an empty file for the state, is made.
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

// commit puts the permanent state in place, in one step: the new one is there, on
// disk, or the old one is. A new TPM takes the place of everything that was
// there of another; a changed one leaves the other items.
func (l *location) commit(sealed []byte, isNew bool) error {
	prefix := l.version.FilePrefix()
	changes := []nv.Change{{Name: prefix + nv.Permanent, Blob: sealed}}
	if isNew {
		old, err := l.others()
		if err != nil {
			return err
		}
		changes = append(changes, old...)
	}
	return nv.Apply(l.b, changes)
}

// others are the changes that remove what the permanent state leaves of a TPM.
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
		case err == nil:
			changes = append(changes, nv.Change{Name: l.version.FilePrefix() + name})
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return changes, nil
}

// close gives the lock back.
func (l *location) close() error {
	if l.b == nil {
		return nil
	}
	return l.b.Close()
}
