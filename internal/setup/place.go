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
type place struct {
	nv.Location
	path    string
	version tpm.Version
	warn    func(format string, args ...any)
	create  bool       // a directory that is missing is made
	options nv.Options // how the state is stored
	begun   time.Time  // when the manufacture was marked as begun; zero if it was not

	b nv.Backend // locked; nil before open
}

// parsePlace reads --tpm-state.
func parsePlace(s string, v tpm.Version) *place {
	l := nv.ParseLocation(s)
	if l.Kind == nv.None || l.Kind == nv.Unsupported {
		l = nv.Location{Kind: nv.Directory, Path: s}
	}
	return &place{Location: l, path: l.Path, version: v}
}

func (p *place) isDir() bool { return p.Kind == nv.Directory }

// check makes sure that we may use the place, without a trace.
func (p *place) check() error {
	if !p.isDir() {
		err := unix.Access(p.path, unix.R_OK|unix.W_OK)
		if err == nil || err == unix.ENOENT && unix.Access(filepath.Dir(p.path), unix.W_OK|unix.X_OK) == nil {
			return nil
		}
		return cli.Complain("User %s cannot access file %s: %s", keyvalue.UserName(), p.path, cli.Strerror(err))
	}
	if p.missing() {
		return nil
	}
	if err := checkDir(p.path); err != nil {
		return err
	}
	lock := filepath.Join(p.path, ".lock")
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
func (p *place) existing() (string, error) {
	if p.b != nil {
		return p.find(p.b)
	}
	b, err := backend.Open(p.Location, nv.Options{Prefix: p.version.FilePrefix(), DryRun: true, Warn: p.warn})
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer b.Close()
	return p.find(b)
}

func (p *place) find(b nv.Backend) (string, error) {
	s, ok := b.(nv.StatBackend)
	if !ok {
		return "", fmt.Errorf("%s: what is there cannot be told: %w", p.Location, errors.ErrUnsupported)
	}
	for _, name := range items {
		_, err := s.Stat(p.version.FilePrefix() + name)
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
func (p *place) open() error {
	if err := p.makeDir(); err != nil {
		return err
	}
	o := p.options
	o.Prefix, o.Lock, o.Warn = p.version.FilePrefix(), true, p.warn
	b, err := backend.Open(p.Location, o)
	if err != nil {
		return err
	}
	if err := b.Lock(); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", p.Location, err), b.Close())
	}
	p.b = b
	return nil
}

// commit puts the permanent state in place, in one step: the new one is there, on
// disk, or the old one is. A new TPM takes the place of everything that was
// there of another; a changed one leaves the other items.
func (p *place) commit(sealed []byte, isNew bool) error {
	prefix := p.version.FilePrefix()
	changes := []nv.Change{{Name: prefix + nv.Permanent, Blob: sealed}}
	if isNew {
		old, err := p.others()
		if err != nil {
			return err
		}
		changes = append(changes, old...)
	}
	return nv.Apply(p.b, changes)
}

// others are the changes that remove what the permanent state leaves of a TPM.
func (p *place) others() (changes []nv.Change, err error) {
	s, ok := p.b.(nv.StatBackend)
	if !ok {
		return nil, nil
	}
	names := items[1:]
	if p.isDir() {
		names = append(names[:len(names):len(names)], nv.Backup)
	}
	for _, name := range names {
		_, err := s.Stat(p.version.FilePrefix() + name)
		switch {
		case err == nil:
			changes = append(changes, nv.Change{Name: p.version.FilePrefix() + name})
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return changes, nil
}

// close gives the lock back.
func (p *place) close() error {
	if p.b == nil {
		return nil
	}
	return p.b.Close()
}
