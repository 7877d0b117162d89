package nv

import (
	"errors"
	"io/fs"
)

// Options says how a backend stores state. A backend refuses an option that it does not
// support.
type Options struct {
	Mode         fs.FileMode // permission bits of state files; 0 is the default, 0640
	ModeExplicit bool        // Mode was configured: it is exact, independent of the umask
	Lock         bool        // exclude a second instance
	Backup       bool        // keep the previous permanent state, too
	Relaxed      bool        // no fsync: fast, but a power cut loses acknowledged changes
	Prefix       string      // of this TPM's items: "tpm2-00." or "tpm-00."
	DryRun       bool        // change nothing: Store and Delete fail, Lock only checks that it would succeed

	// ReadOnly changes nothing, not even a mode or a time. The lock is shared
	// with other readers and excludes writers.
	ReadOnly bool

	// Adopt gives new files to the owner of the storage if this process runs as
	// root: it may work on the state of a TPM that another user runs.
	Adopt bool

	// Token and Revision hold the right to write to a state in a cluster store across a
	// restart of the process; nil for a right that ends with the process.
	Token, Revision *uint64

	// Warn logs one line; nil discards warnings.
	Warn func(format string, args ...any)
}

// ErrDryRun and ErrReadOnly are the errors of a change under Options.DryRun and
// Options.ReadOnly.
var (
	ErrDryRun   = error(dryRunError{})
	ErrReadOnly = errors.New("the state is open for reading only")
)

// dryRunError is the type of ErrDryRun.
type dryRunError struct{}

func (dryRunError) Error() string {
	return "the state was opened for a dry run, which changes nothing: " + errors.ErrUnsupported.Error()
}

func (dryRunError) Unwrap() error { return errors.ErrUnsupported }
