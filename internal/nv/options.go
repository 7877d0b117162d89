package nv

import (
	"errors"
	"fmt"
	"io/fs"
)

// Options says how a backend keeps state. Not every backend knows every option;
// one that does not know it refuses it.
type Options struct {
	Mode         fs.FileMode // permission bits of state files; 0 is the default, 0640
	ModeExplicit bool        // Mode was asked for: exact, whatever the umask
	Lock         bool        // exclude a second instance
	Backup       bool        // keep the permanent state before the last
	Relaxed      bool        // no fsync: fast, and a power cut loses what was acknowledged
	Prefix       string      // of this TPM's items: "tpm2-00." or "tpm-00."
	DryRun       bool        // change nothing: Store and Delete fail, Lock only says whether it could be had

	// ReadOnly changes nothing, not even a mode or a time. The lock is shared
	// with other readers and excludes who writes.
	ReadOnly bool

	// Adopt gives new files to the owner of the storage if root runs this: for
	// work on the state of a TPM that another user runs.
	Adopt bool

	// Warn takes one line for the log. nil drops it.
	Warn func(format string, args ...any)
}

// ErrDryRun and ErrReadOnly are why nothing changes under Options.DryRun and
// Options.ReadOnly.
var (
	ErrDryRun   = fmt.Errorf("the state was opened to look at, not to change: %w", errors.ErrUnsupported)
	ErrReadOnly = errors.New("the state is open for reading only")
)
