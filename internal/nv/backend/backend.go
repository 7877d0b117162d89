// Package backend opens the storage that an nv.Location names. It is the list of
// backends: a new one is a directory next to nv/dir and a line here.
package backend

import (
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/dir"
	"github.com/swtpm-go/swtpm/internal/nv/linear"
	"github.com/swtpm-go/swtpm/internal/nv/remote"
)

// backends are the functions that open each kind of storage.
var backends = [...]func(path string, o nv.Options) (nv.Backend, error){
	nv.Directory: openDir,
	nv.File:      openFile,
	nv.Cluster:   openRemote,
}

// Open opens the storage that l names.
func Open(l nv.Location, o nv.Options) (nv.Backend, error) {
	if l.Kind == nv.None {
		return nil, errors.New("nv: no state location configured; give --tpmstate dir=PATH")
	}
	if int(l.Kind) >= len(backends) {
		return nil, fmt.Errorf("nv: unsupported backend %q; want dir://PATH, file://PATH or store://NAME", l)
	}
	b, err := backends[l.Kind](l.Path, o)
	if err != nil {
		return nil, fmt.Errorf("nv: open %q: %w", l, err)
	}
	return b, nil
}

func openDir(path string, o nv.Options) (nv.Backend, error) {
	return dir.Open(path, o)
}

func openFile(path string, o nv.Options) (nv.Backend, error) {
	return linear.Open(path, o)
}

func openRemote(name string, o nv.Options) (nv.Backend, error) {
	return remote.Open(name, o)
}
