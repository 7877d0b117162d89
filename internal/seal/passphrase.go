package seal

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Passphrase is a passphrase in locked memory, as a Key is.
type Passphrase struct {
	page     *page
	warnings []string
}

// ReadPassphrase reads a passphrase from the file path, or from the descriptor
// fd, which it closes, if path is "". A newline at its end does not belong to it, unlike in
// the passphrase of a state's key, whose format includes it. An empty one is refused. The
// rules for the file are those of ReadKey.
func ReadPassphrase(path string, fd int) (*Passphrase, error) {
	src := Source{Path: path, FD: fd, Passphrase: true, KDF: "sha512", Bits: 128}
	p, err := readPassphrase(src)
	if err != nil {
		return nil, fmt.Errorf("seal: %s: %w", src.name(), err)
	}
	return p, nil
}

func readPassphrase(src Source) (*Passphrase, error) {
	fd, size, err := src.open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	in, err := newPage(size)
	if err != nil {
		return nil, err
	}
	n, err := readFull(fd, in.b)
	if n > 0 && n < size && in.b[n-1] == '\n' {
		n--
	}
	switch {
	case err != nil:
		err = fmt.Errorf("read: %w", err)
	case n > maxPassphrase:
		err = fmt.Errorf("a passphrase of more than %d bytes", maxPassphrase)
	case n == 0:
		err = errors.New("the passphrase is empty")
	}
	if err != nil {
		return nil, errors.Join(err, in.close())
	}
	in.b = in.b[:n:n]
	p := &Passphrase{page: in, warnings: in.warnings}
	if n <= shortPassphrase {
		p.warnings = append(p.warnings, fmt.Sprintf("%s: the passphrase is short: %d bytes", src.name(), n))
	}
	return p, nil
}

// Bytes returns the passphrase. It is invalid after Close.
func (p *Passphrase) Bytes() []byte { return p.page.b }

// Warnings returns warnings for the user about the passphrase.
func (p *Passphrase) Warnings() []string { return p.warnings }

// Close overwrites the passphrase. It does nothing on nil and after the first call.
func (p *Passphrase) Close() error {
	if p == nil || p.page == nil {
		return nil
	}
	in := p.page
	p.page = nil
	if err := in.close(); err != nil {
		return fmt.Errorf("seal: close passphrase: %w", err)
	}
	return nil
}
