package seal

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Key is an AES key of 128 or 256 bits. It is stored in a page of its own, which is never
// swapped out, missing from core dumps, and empty in a forked child. It is never in a
// string. A nil *Key stands for no key.
//
// During an operation the standard library has a copy of the key and its schedule on the Go
// heap. A program built with GOEXPERIMENT=runtimesecret erases that as well.
type Key struct {
	page     *page
	warnings []string
}

// NewKey returns a key of the 16 or 32 bytes in b, and wipes b.
func NewKey(b []byte) (*Key, error) {
	defer Wipe(b)
	if len(b) != 16 && len(b) != 32 {
		return nil, fmt.Errorf("seal: a key of %d bytes; AES takes 16 or 32", len(b))
	}
	p, err := newPage(len(b))
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	copy(p.b, b)
	return &Key{page: p, warnings: p.warnings}, nil
}

// Bits returns the size of the key, 128 or 256; 0 for no key and after Close.
func (k *Key) Bits() int { return 8 * len(k.bytes()) }

// Warnings returns warnings for the user: that the passphrase is short, that the file of the
// key could not be removed, that its page could not be locked.
func (k *Key) Warnings() []string { return k.warnings }

// Close overwrites the key and unmaps its page. It must not run while the key is in use. A
// second Close does nothing.
func (k *Key) Close() error {
	if k == nil || k.page == nil {
		return nil
	}
	p := k.page
	k.page = nil
	if err := p.close(); err != nil {
		return fmt.Errorf("seal: close key: %w", err)
	}
	return nil
}

// bytes returns the key, nil for no key and after Close.
func (k *Key) bytes() []byte {
	if k == nil || k.page == nil {
		return nil
	}
	return k.page.b
}

// usable fails if k was closed. A nil k is usable.
func (k *Key) usable() error {
	if k != nil && k.page == nil {
		return fmt.Errorf("%w: it was closed", ErrNoKey)
	}
	return nil
}

// page is memory for secrets, outside the Go heap, so that the garbage collector does not
// copy it.
type page struct {
	b        []byte // the requested bytes
	all      []byte // whole pages
	warnings []string
}

// newPage returns n bytes of zeros. If the kernel refuses to lock them it only warns,
// because the reference works without that right (RLIMIT_MEMLOCK).
func newPage(n int) (*page, error) {
	size := unix.Getpagesize()
	all, err := unix.Mmap(-1, 0, (n+size-1)/size*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map memory for a key: %w", err)
	}
	p := &page{b: all[:n:n], all: all}
	for _, step := range []struct {
		err  error
		harm string
	}{
		{unix.Mlock(all), "may be swapped out; raise the limit on locked memory (RLIMIT_MEMLOCK)"},
		{unix.Madvise(all, unix.MADV_DONTDUMP), "may be in core dumps"},
		{unix.Madvise(all, unix.MADV_WIPEONFORK), "is copied to child processes"},
	} {
		if step.err != nil {
			p.warnings = append(p.warnings, fmt.Sprintf("the key %s: %v", step.harm, step.err))
		}
	}
	return p, nil
}

// close overwrites the page and unmaps it, which unlocks it.
func (p *page) close() error {
	Wipe(p.all)
	return unix.Munmap(p.all)
}
