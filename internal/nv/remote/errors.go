package remote

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/store"
)

// damaged is an error of the store of the kind nv.ErrDamaged: no new TPM replaces the state.
type damaged struct{ error }

// Is reports whether target is nv.ErrDamaged.
func (damaged) Is(target error) bool { return target == nv.ErrDamaged }

// Unwrap returns the error of the store.
func (d damaged) Unwrap() error { return d.error }

// translate wraps an error of the broker in the errors of package nv. A temporary error also wraps
// an errno, as an error of a disk does.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrUnreachable), errors.Is(err, store.ErrUnknown):
		return &unreachable{err}
	case errors.Is(err, store.ErrFenced):
		return &taken{err}
	case errors.Is(err, store.ErrOwned):
		return fmt.Errorf("%w: %w", nv.ErrTaken, err)
	case errors.Is(err, store.ErrDamaged):
		return damaged{err}
	case errors.Is(err, store.ErrQuota):
		return fmt.Errorf("%w: %w", err, syscall.ENOSPC)
	}
	return err
}

// unreachable is an error of the store or the broker. Its text says once that the store cannot be
// reached.
type unreachable struct{ err error }

func (u *unreachable) Error() string {
	return nv.ErrUnreachable.Error() + ": " + strings.TrimPrefix(u.err.Error(), store.ErrUnreachable.Error()+": ")
}

func (u *unreachable) Unwrap() []error { return []error{nv.ErrUnreachable, u.err, syscall.ETIMEDOUT} }

// taken is an error of the broker that ends this process as the owner. Its text is the broker's, which
// says whether another owner or another program has changed the state.
type taken struct{ err error }

func (t *taken) Error() string {
	return strings.TrimPrefix(t.err.Error(), store.ErrFenced.Error()+": ")
}

func (t *taken) Unwrap() []error { return []error{nv.ErrTaken, t.err} }
