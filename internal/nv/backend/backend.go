// Package backend opens the storage that a URI names. It is the list of the
// backends there are: a new one is a directory beside nv/dir and a line here.
package backend

import (
	"errors"
	"fmt"
	"strings"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
	"github.com/swtpm-go/swtpm/internal/nv/linear"
)

// schemes are the backends by the scheme of their URI.
var schemes = map[string]func(path string, o nv.Options) (nv.Backend, error){
	"dir":  openDir,
	"file": openFile,
}

// Open opens the storage that uri names: dir://PATH, a directory with a file
// for each item, or file://PATH, one file or block device with all of them.
func Open(uri string, o nv.Options) (nv.Backend, error) {
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

func openDir(path string, o nv.Options) (nv.Backend, error) {
	return dir.Open(path, o)
}

func openFile(path string, o nv.Options) (nv.Backend, error) {
	return linear.Open(path, o)
}
