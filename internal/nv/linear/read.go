package linear

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
)

// header reads and checks the header. blank is true if the file is empty or contains only zeros, so
// that a new TPM may be created in it.
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

// checkBlank makes sure that all bytes up to reach are zero: a file system, for example,
// may begin with zeros.
func (f *File) checkBlank(size int64) error {
	b := make([]byte, 64<<10)
	for off := int64(0); off < min(size, reach); off += int64(len(b)) {
		b = b[:min(int64(len(b)), min(size, reach)-off)]
		if err := f.s.ReadAt(b, off); err != nil {
			return err
		}
		if !isZero(b) {
			return fmt.Errorf("%q: %w", f.path,
				damage("it begins with zeros, but its first %d bytes contain data: not a TPM state, or its header is lost; check the path; if nothing in it is needed, fill it with zeros for a new TPM", reach))
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

// Load returns the whole item. It fails with fs.ErrNotExist if the item does not exist. It
// syncs the file unless f has synced this content before, because a client may request a
// state again and again.
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

// Stat returns the size of the item. It fails with fs.ErrNotExist if the item does not
// exist.
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

// Unchanged reports whether the item is still the one that f last loaded or stored. It
// compares the bytes: a device has no time of the last change, and the time of a file is
// not that of one item.
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

// makeDurable makes sure that h, the header that was just read, and its items survive a
// power cut. The process that wrote them may have been killed before it synced. Also, a
// write into space that is free in h is safe only if no older header, which uses that
// space, can come back.
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

// rewrite writes the header and the items again. After a failed sync the kernel treats the
// bytes in its memory as written, and the next sync would report success.
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

// fixMode gives a regular file with state the configured permissions.
func (f *File) fixMode() error {
	if f.s.device() {
		return nil // the administrator sets the mode of a device
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
		f.o.Warn("state in %q is accessible to others: mode %#o, wider than %#o", f.path, want, defaultMode)
	}
	return nil
}
