package linear

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
)

// header reads and checks the header. blank says that there is nothing at all
// yet, which a TPM may be made in.
func (f *File) header() (h header, size int64, blank bool, err error) {
	size, err = f.size()
	if err != nil {
		return header{}, 0, false, err
	}
	b := make([]byte, min(size, headerSize))
	if err := f.s.ReadAt(b, 0); err != nil {
		return header{}, 0, false, err
	}
	if isZero(b) {
		err := f.checkBlank(size)
		return header{}, size, err == nil, err
	}
	if h, err = parseHeader(b, size); err != nil {
		return header{}, 0, false, fmt.Errorf("%q: %w", f.path, err)
	}
	return h, size, false, nil
}

// checkBlank makes sure that nothing is where we would write: a file system, for
// one, may begin with zeros. It reads up to reach.
func (f *File) checkBlank(size int64) error {
	b := make([]byte, 64<<10)
	for off := int64(0); off < min(size, reach); off += int64(len(b)) {
		b = b[:min(int64(len(b)), min(size, reach)-off)]
		if err := f.s.ReadAt(b, off); err != nil {
			return err
		}
		if !isZero(b) {
			return fmt.Errorf("%q: %w", f.path,
				damage("it begins with zeros, but there is something in its first %d bytes: it holds something else, or its header is lost; check the path; if nothing in it is needed, fill it with zeros for a new TPM", reach))
		}
	}
	return nil
}

var zeros [4096]byte

func isZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// Load returns the whole item. It fails with fs.ErrNotExist if there is none. It
// syncs the file unless what it finds is what f has synced before: a client may ask
// for a state again and again.
func (f *File) Load(name string) ([]byte, error) {
	i, err := f.index(name)
	if err != nil {
		return nil, err
	}
	last := f.seen[i]
	delete(f.seen, i)
	h, _, blank, err := f.header()
	if err != nil {
		return nil, err
	}
	e := h.Entries[i]
	var b []byte
	var now known
	if e.Offset != 0 {
		if b, err = f.read(e); err != nil {
			return nil, err
		}
		now = known{e.Offset, e.Length, sha256.Sum256(b)}
	}
	if !blank && !f.o.DryRun && !f.o.ReadOnly {
		err := f.fixMode()
		if err == nil && (f.doubt || f.safe != h || now != last) {
			err = f.makeDurable(&h)
		}
		if err != nil {
			clear(b)
			return nil, err
		}
	}
	if e.Offset == 0 {
		return nil, fmt.Errorf("%q has no %s: %w", f.path, name, fs.ErrNotExist)
	}
	f.seen[i] = now
	return b, nil
}

// Stat returns the size of the item. It fails with fs.ErrNotExist if there is none.
func (f *File) Stat(name string) (int64, error) {
	i, err := f.index(name)
	if err != nil {
		return 0, err
	}
	h, _, _, err := f.header()
	switch {
	case err != nil:
		return 0, err
	case h.Entries[i].Offset == 0:
		return 0, fmt.Errorf("%q has no %s: %w", f.path, name, fs.ErrNotExist)
	}
	return int64(h.Entries[i].Length), nil
}

func (f *File) read(e entry) ([]byte, error) {
	b := make([]byte, e.Length)
	return b, f.s.ReadAt(b, int64(e.Offset))
}

// Unchanged tells whether the item is still the very one that f has last loaded
// or stored. It looks at the bytes: a device has no time of the last change, and
// that of a file tells nothing of one item.
func (f *File) Unchanged(name string) bool {
	i, err := f.index(name)
	if err != nil {
		return false
	}
	want, ok := f.seen[i]
	if !ok {
		return false
	}
	h, _, _, err := f.header()
	if err != nil {
		return false
	}
	e := h.Entries[i]
	if e.Offset != want.offset || e.Length != want.length {
		return false
	}
	b, err := f.read(e)
	defer clear(b)
	return err == nil && sha256.Sum256(b) == want.sum
}

// makeDurable makes sure that h, the header as it was just read, and its items survive
// a power cut. The process that wrote them may have died before it had synced;
// and whoever writes into space that h says is free must be certain that no older
// header, which uses it, comes back.
func (f *File) makeDurable(h *header) error {
	if f.doubt {
		if err := f.rewrite(h); err != nil {
			return err
		}
	}
	if err := f.sync(); err != nil {
		return err
	}
	f.safe, f.doubt = *h, false
	return nil
}

// rewrite writes back what was read. After a failed sync the kernel takes what it
// has in memory for written, and the next sync would say that all is well.
func (f *File) rewrite(h *header) error {
	for _, i := range h.sorted() {
		b, err := f.read(h.Entries[i])
		if err == nil {
			err = f.s.WriteAt(b, int64(h.Entries[i].Offset))
		}
		clear(b)
		if err != nil {
			return err
		}
	}
	return f.s.WriteAt(h.append(nil), 0)
}

// fixMode gives a regular file with state the permissions that were asked for.
func (f *File) fixMode() error {
	if f.s.device() {
		return nil // its owner's affair
	}
	mode, err := f.s.Mode()
	if err != nil {
		return err
	}
	want := mode
	if f.o.ModeExplicit {
		want = uint32(f.o.Mode.Perm())
	}
	if want != mode {
		if err := f.s.SetMode(want); err != nil {
			f.o.Warn("%v", err) // a file system in user space may have none
		}
	}
	if want&^defaultMode&0o077 != 0 && !f.wide {
		f.wide = true
		f.o.Warn("state in %q is open to others: mode %#o, wider than %#o", f.path, want, defaultMode)
	}
	return nil
}
