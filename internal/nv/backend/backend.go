// Package backend opens the storage that a URI names. It is the list of the
// backends there are: a new one is a directory beside nv/dir and a line here.
package backend

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
	"github.com/swtpm-go/swtpm/internal/nv/linear"
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
	Look         bool        // change nothing: Store and Delete fail, Lock only says whether it could be had

	// ReadOnly changes nothing, not even a mode or a time. The lock is shared
	// with other readers and excludes who writes.
	ReadOnly bool

	// Adopt gives new files to the owner of the storage if root runs this: for
	// work on the state of a TPM that another user runs.
	Adopt bool

	// Warn takes one line for the log. nil drops it.
	Warn func(format string, args ...any)
}

// schemes are the backends by the scheme of their URI.
var schemes = map[string]func(path string, o Options) (nv.Backend, error){
	"dir":  openDir,
	"file": openFile,
}

// Open opens the storage that uri names: dir://PATH, a directory with a file
// for each item, or file://PATH, one file or block device with all of them.
func Open(uri string, o Options) (nv.Backend, error) {
	if uri == "" {
		return nil, errors.New("nv: no place for the state is configured; give --tpmstate dir=PATH")
	}
	scheme, path, ok := strings.Cut(uri, "://")
	open := schemes[scheme]
	if !ok || open == nil {
		return nil, fmt.Errorf("nv: unsupported backend %q; dir://PATH and file://PATH are those that work", uri)
	}
	b, err := open(path, o)
	if err != nil {
		return nil, fmt.Errorf("nv: open %q: %w", uri, err)
	}
	return b, nil
}

func openDir(path string, o Options) (nv.Backend, error) {
	return dir.Open(path, dir.Options(o))
}

func openFile(path string, o Options) (nv.Backend, error) {
	return linear.Open(path, linear.Options(o))
}
