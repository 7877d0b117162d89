package nv

import "errors"

var (
	// ErrUnsynced means that a new item is in place, and may not survive a power cut.
	ErrUnsynced = errors.New("not synced")

	// ErrUnreachable means that the cluster store does not answer. The new item may
	// have been stored; a later Load returns the valid one.
	ErrUnreachable = errors.New("the cluster store cannot be reached")

	// ErrTaken means that another owner has the state, or had it since this process last
	// used it. This process must end.
	ErrTaken = errors.New("the state was taken over")
)
