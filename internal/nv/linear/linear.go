// Package linear keeps the items of a TPM in one regular file or block device,
// the way swtpm does, so that each program runs on the other's:
//
//	0    192 header: where the items are, see type header
//	192  ... items, each with space to grow
//
// An item is replaced in this order: the new one goes into free space, sync, the
// header is written over with one write of one sector, sync. So a power cut
// leaves the old item or the new one. swtpm's way, in place, would mix them.
//
// The file is opened once, and everything after goes through that descriptor.
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

	// reach is the part of a device or a file in bytes that we write to: more
	// than three items of the largest size, twice, with their sections. All of
	// it must be zero before we begin there, so that nothing that is not ours
	// is ever written over, however large the device is.
	reach = 16 << 20

	// tooBig is the size in bytes that the offsets cannot tell any more.
	tooBig = 1 << 32
)

// names are the items in the order of the header.
var names = []string{"permall", "volatilestate", "savestate"}

// storage is what a File needs of the file or device below it: a node.
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

// What a File can do beyond an nv.Backend.
var (
	_ nv.MovableBackend = (*File)(nil)
	_ nv.StatBackend    = (*File)(nil)
	_ nv.BatchBackend   = (*File)(nil)
	_ nv.WipeBackend    = (*File)(nil)
)

// File is a file or block device with the state of a TPM, an nv.Backend. Its
// methods take no turns by themselves: nv.Store sees to that.
type File struct {
	o    nv.Options
	path string // for messages
	s    storage

	safe   header // is on the disk for certain; none if it is zero
	doubt  bool   // a sync has failed: what the kernel has in memory may not be on the disk
	seen   map[int]known
	closed bool
	wide   bool // the warning about the mode was given
}

// known is what was last loaded or stored.
type known struct {
	offset, length uint32
	sum            [sha256.Size]byte
}

// Open opens the regular file or block device at path. If nothing is there it
// makes an empty file, unless it is only to look or to read: then it fails with
// fs.ErrNotExist. It changes nothing that is there.
func Open(path string, o nv.Options) (*File, error) {
	switch {
	case path == "":
		return nil, errors.New("the path of the state file is empty")
	case o.Backup:
		// Compat: swtpm 0.11 fails as well, at INIT.
		return nil, errors.New("backup keeps a second file, and works with dir:// only; leave it out")
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
	return 0, fmt.Errorf("there is never a %q in a state file: %w", name, fs.ErrNotExist)
}

// size returns the size of the file or device if it is one that can be used.
func (f *File) size() (int64, error) {
	n, err := f.s.Size()
	switch {
	case err != nil:
		return 0, err
	case n >= tooBig:
		return 0, fmt.Errorf("%q has %d bytes; the offsets of its format end at %d", f.path, n, int64(tooBig))
	case f.s.device() && n < headerSize:
		return 0, fmt.Errorf("the block device %q has %d bytes; at least %d are needed", f.path, n, headerSize)
	}
	return n, nil
}

// limit returns where our items have to end.
func (f *File) limit(size int64) int64 {
	if f.s.device() {
		return min(size, reach)
	}
	return reach
}

// Moved says whether the path leads to something else by now, or nowhere.
func (f *File) Moved() bool { return !f.closed && f.s.Moved() }

// Lock excludes other processes, ours and those of swtpm 0.10 and later, with a
// write lock on the file itself. It tries once. With Options.Lock false it does
// nothing.
func (f *File) Lock() error {
	if !f.o.Lock {
		return nil
	}
	return f.s.Lock()
}

// Unlock lets other processes in.
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
