package nv

import (
	"fmt"
	"strings"
)

// Location names the storage of a TPM's state. The zero Location names none.
type Location struct {
	Kind LocationKind
	Path string // of the directory or file; with Cluster the name of the state, with Unsupported the whole URI
}

// LocationKind is the kind of storage that a Location names.
type LocationKind uint8

// The kinds of storage.
const (
	None        LocationKind = iota
	Directory                // a directory with a file for each item
	File                     // one file or block device with all items
	Cluster                  // a state in a cluster store, through the broker of this host
	Unsupported              // a URI that no backend opens
)

// schemes are the prefixes of the URIs of each kind.
var schemes = [...]string{Directory: "dir://", File: "file://", Cluster: "store://", Unsupported: ""}

// ParseLocation returns the Location that uri names: dir://PATH, file://PATH or store://NAME.
// "" is None, every other text Unsupported.
func ParseLocation(uri string) Location {
	if uri == "" {
		return Location{}
	}
	for _, kind := range []LocationKind{Directory, File, Cluster} {
		if path, ok := strings.CutPrefix(uri, schemes[kind]); ok {
			return Location{kind, path}
		}
	}
	return Location{Unsupported, uri}
}

// ValidState reports whether name can name a state in a cluster store: 1 to 128 letters,
// digits and the characters "._-@+:", not starting with a dot.
func ValidState(name string) bool {
	if name == "" || len(name) > 128 || name[0] == '.' {
		return false
	}
	for _, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && !strings.ContainsRune("._-@+:", rune(c)) {
			return false
		}
	}
	return true
}

// String returns the URI of l, "" for None.
func (l Location) String() string { return schemes[l.Kind] + l.Path }

// Dir returns the path of l and true if l is a Directory, otherwise "" and false.
func (l Location) Dir() (path string, ok bool) {
	if l.Kind != Directory {
		return "", false
	}
	return l.Path, true
}

// GiveKey is the remedy of CheckKey on the command line of swtpm.
const GiveKey = "give --key, or --tpmstate allow-plain"

// CheckKey returns an error, with the remedy, if a state that is not encrypted would be in a
// cluster store. plain allows that, as --tpmstate allow-plain does.
func (l Location) CheckKey(encrypted, plain bool, remedy string) error {
	if l.Kind != Cluster || encrypted || plain {
		return nil
	}
	return fmt.Errorf("state %s: a state in a cluster store needs a key, because the store could read it; %s", l, remedy)
}
