// Package linear stores the items of a TPM in one regular file or block device, in the
// format of swtpm, so that each program can use the file of the other:
//
//	0    192 header: where the items are, see type header
//	192  ... items, each with space to grow
//
// An item is replaced in this order: write the new one into free space, sync, overwrite
// the header with one write of one sector, sync. So a power cut leaves the old item or the
// new one. swtpm overwrites an item in place, where a power cut can mix the two.
//
// The file is opened once, and all access uses that descriptor.
package linear

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

const (
	// defaultMode is the permission of a new file before the umask.
	defaultMode = 0o640

	// reach is the size in bytes of the part of a device or a file that this
	// package writes to: more than three items of the largest size, twice, with
	// their sections. A new TPM is made only if all of it is zero, so that no data
	// of another program is overwritten, however large the device is.
	reach = 16 << 20

	// tooBig is the smallest size in bytes that the offsets cannot express.
	tooBig = 1 << 32
)

// names are the items in the order of the header.
var names = []string{"permall", "volatilestate", "savestate"}

// storage is the file or device of a File: a node, or a fake in tests.
type storage interface {
	Size() (int64, error)
	ReadAt(b []byte, off int64) error
	WriteAt(b []byte, off int64) error
	Truncate(size int64) error
	Sync() error

	device() bool
	Mode() (uint32, error)
	SetMode(mode uint32) error
	Moved() bool
	Lock() error
	Unlock() error
	Close() error
}

// The optional interfaces of backends that File implements.
var (
	_ nv.MovableBackend = (*File)(nil)
	_ nv.StatBackend    = (*File)(nil)
	_ nv.BatchBackend   = (*File)(nil)
	_ nv.WipeBackend    = (*File)(nil)
)

// File is a file or block device with the state of a TPM, an nv.Backend. It is not safe for
// concurrent use; nv.Store serializes the calls.
type File struct {
	o    nv.Options
	path string // for messages
	s    storage

	safe   header // the header that is known to be on the disk; zero if unknown
	doubt  bool   // a sync has failed, so that the page cache may differ from the disk
	seen   map[int]known
	closed bool
	wide   bool // the warning about the mode was given
}

// known describes an item that was last loaded or stored.
type known struct {
	offset, length uint32
	sum            [sha256.Size]byte
}

// Open opens the regular file or block device at path, and creates a missing file. Under
// Options.DryRun and ReadOnly it fails with fs.ErrNotExist instead. It does not change an
// existing file.
func Open(path string, o nv.Options) (*File, error) {
	switch {
	case path == "":
		return nil, errors.New("the path of the state file is empty")
	case o.Backup:
		// Compat: C-244: swtpm 0.11 fails as well, at INIT.
		return nil, errors.New("backup works only with dir://, since it needs a second file; leave it out")
	}
	if o.Warn == nil {
		o.Warn = func(string, ...any) {}
	}
	perm := uint32(defaultMode)
	if p := uint32(o.Mode.Perm()); p != 0 || o.ModeExplicit {
		perm = p
	}
	n, created, err := openNode(path, perm, safefile.Options{Adopt: o.Adopt, ReadOnly: o.DryRun || o.ReadOnly, Warn: o.Warn})
	if err != nil {
		return nil, err
	}
	n.relaxed, n.query, n.warn = o.Relaxed, o.DryRun, o.Warn
	n.shared = o.ReadOnly
	f := &File{o: o, path: path, s: n, seen: map[int]known{}}
	if created && o.ModeExplicit {
		err = n.SetMode(perm)
	}
	if err == nil {
		_, err = f.size()
	}
	if err != nil {
		n.Close()
		return nil, err
	}
	return f, nil
}

// index returns the number of the header's entry for the item of that name.
func (f *File) index(name string) (int, error) {
	for i, n := range names {
		if item, ok := strings.CutPrefix(name, f.o.Prefix); ok && item == n {
			return i, nil
		}
	}
	return 0, fmt.Errorf("a state file has no item %q: %w", name, fs.ErrNotExist)
}

// size returns the size of the file or device. It fails if the size is unusable.
func (f *File) size() (int64, error) {
	n, err := f.s.Size()
	switch {
	case err != nil:
		return 0, err
	case n >= tooBig:
		return 0, fmt.Errorf("%q has %d bytes; its format allows fewer than %d", f.path, n, int64(tooBig))
	case f.s.device() && n < headerSize:
		return 0, fmt.Errorf("the block device %q has %d bytes, needs at least %d", f.path, n, headerSize)
	}
	return n, nil
}

// limit returns the offset at which all items must end.
func (f *File) limit(size int64) int64 {
	if f.s.device() {
		return min(size, reach)
	}
	return reach
}

// Moved reports whether the path now leads to another file, or to none.
func (f *File) Moved() bool { return !f.closed && f.s.Moved() }

// Lock excludes other processes of this program and of swtpm 0.10 and later, with a write
// lock on the file itself. It tries once. With Options.Lock false it does nothing.
func (f *File) Lock() error {
	if !f.o.Lock {
		return nil
	}
	return f.s.Lock()
}

// Unlock releases the lock.
func (f *File) Unlock() error {
	if !f.o.Lock || f.o.DryRun || f.closed {
		return nil
	}
	return f.s.Unlock()
}

// Close unlocks and closes the file.
func (f *File) Close() error {
	if f.closed {
		return nil
	}
	f.closed = true
	clear(f.seen)
	return f.s.Close()
}
