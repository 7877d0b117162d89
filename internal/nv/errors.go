package nv

import "errors"

// What a file system cannot do, or what is wrong with a file in it. These errors
// are kinds: Of adds one to an error, so that a caller knows what helps.
var (
	// ErrNoLocks means that files cannot be locked there.
	ErrNoLocks = errors.New("no locks")

	// ErrNoSync means that the file system does not support fsync.
	ErrNoSync = errors.New("no fsync")

	// ErrLinks means that a file has more than one name.
	ErrLinks = errors.New("more than one link")

	// ErrOwner means that a file belongs to a user whose files are not trusted.
	ErrOwner = errors.New("unexpected owner")

	// ErrUnsynced means that a new item is in place, and may not survive a power cut.
	ErrUnsynced = errors.New("not synced")

	// ErrMode means that the mode that was asked for cannot be set.
	ErrMode = errors.New("mode refused")
)

// kindError is an error of a kind that its text does not repeat.
type kindError struct {
	error
	kind error
}

// Unwrap returns the error and its kind.
func (e kindError) Unwrap() []error { return []error{e.error, e.kind} }

// Of returns err, which is of the given kind from now on. Its text stays.
func Of(kind, err error) error { return kindError{err, kind} }
