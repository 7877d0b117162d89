package nv

import "strings"

// Location names the storage of a TPM's state. The zero Location names none.
type Location struct {
	Kind LocationKind
	Path string // of the directory or file; with Unsupported the whole URI
}

// LocationKind is the kind of storage that a Location names.
type LocationKind uint8

// The kinds of storage.
const (
	None        LocationKind = iota
	Directory                // a directory with a file for each item
	File                     // one file or block device with all items
	Unsupported              // a URI that no backend opens
)

// schemes are the prefixes of the URIs of each kind.
var schemes = map[LocationKind]string{Directory: "dir://", File: "file://", Unsupported: ""}

// ParseLocation returns the Location that uri names: dir://PATH or file://PATH.
// "" is None, every other text Unsupported.
func ParseLocation(uri string) Location {
	if uri == "" {
		return Location{}
	}
	for _, kind := range []LocationKind{Directory, File} {
		if path, ok := strings.CutPrefix(uri, schemes[kind]); ok {
			return Location{kind, path}
		}
	}
	return Location{Unsupported, uri}
}

// String returns the URI of l, "" for None.
func (l Location) String() string { return schemes[l.Kind] + l.Path }

// Dir returns the path of l and true if l is a Directory, else "" and false.
func (l Location) Dir() (path string, ok bool) {
	if l.Kind != Directory {
		return "", false
	}
	return l.Path, true
}
