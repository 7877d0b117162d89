package safefile

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The kinds of errors of this package. WithKind adds a kind to an error, so that a caller
// knows which advice to give.
var (
	// ErrType means that the file is not regular.
	ErrType = errors.New("not a regular file")

	// ErrReplaced means that another process replaced the file while it was opened.
	ErrReplaced = errors.New("replaced by another process while it was opened")

	// ErrLinks means that a file has more than one name.
	ErrLinks = errors.New("more than one link")

	// ErrOwner means that a file belongs to a user whose files are not trusted.
	ErrOwner = errors.New("unexpected owner")

	// ErrMode means that the requested mode cannot be set.
	ErrMode = errors.New("mode refused")

	// ErrNoSync means that the file system does not support fsync.
	ErrNoSync = errors.New("no fsync")

	// ErrNoLocks means that files cannot be locked there.
	ErrNoLocks = errors.New("no locks")
)

// kindError is an error of a kind that its text does not repeat.
type kindError struct {
	error
	kind error
}

// Unwrap returns the error and its kind.
func (e kindError) Unwrap() []error { return []error{e.error, e.kind} }

// WithKind returns err with the given kind. The text stays the same.
func WithKind(kind, err error) error { return kindError{err, kind} }

// CheckType fails unless st, of the file name, is a regular file with one name: another
// name may lead to a file outside. Some file systems do not count links: there a file
// may have the number that every new file has.
func (d *Dir) CheckType(name string, st *unix.Stat_t) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return d.fail("check", name, ErrType)
	case st.Nlink == 1 || d.givesLinks(uint64(st.Nlink)):
		return nil
	case st.Nlink == 0:
		return d.fail("check", name, ErrReplaced)
	}
	return d.fail("check", name, errLinks(st))
}

// errLinks is the error for a file with several names.
func errLinks(st *unix.Stat_t) error {
	return WithKind(ErrLinks, fmt.Errorf("the file has %d hard links, expected 1; replace it with a copy", st.Nlink))
}

// Check does the same as CheckType, and also fails unless the file belongs to the user of this
// process, to root or to the owner of the directory.
func (d *Dir) Check(name string, st *unix.Stat_t) error {
	if err := d.CheckType(name, st); err != nil {
		return err
	}
	euid := uint32(os.Geteuid())
	if st.Uid != 0 && st.Uid != euid && st.Uid != d.owner && !d.givesOwner(st.Uid) {
		return d.fail("check", name, WithKind(ErrOwner,
			fmt.Errorf("the file belongs to user %d, expected user %d of this process, root or the owner of the directory", st.Uid, euid)))
	}
	return nil
}
