package offline

import (
	"errors"
	"fmt"
	"time"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Export returns the state as an archive that names writer as its program. If sealed is true, the
// items stay encrypted, and Export opens them with the key of the state, if any, only to check
// them. Otherwise the archive contains the payloads. It does not contain the backup. The caller
// should Wipe the archive.
func (s *State) Export(sealed bool, writer string) (*Archive, error) {
	items, err := s.items()
	if err != nil {
		return nil, err
	}
	defer wipe(items)
	a := &Archive{Version: s.version, Sealed: sealed, Created: time.Now(), Writer: writer}
	if n := len(items) - 1; items[n].name == nv.Backup {
		items = items[:n]
	}
	if !sealed {
		if err := s.openAll(items); err != nil {
			return nil, err
		}
		a.Recorded = items[0].record != nil
	}
	for n := range items {
		i := &items[n]
		b, err := s.exported(i, a)
		if err != nil {
			a.Wipe()
			return nil, fmt.Errorf("%s: %s: %w", s.where, i.name, err)
		}
		a.Items = append(a.Items, ArchiveItem{Blob: i.blob, Changed: i.changed, Bytes: b})
	}
	return a, nil
}

// exported returns a copy of the bytes of i for the archive.
func (s *State) exported(i *item, a *Archive) ([]byte, error) {
	switch {
	case a.Recorded:
		return reseal(i, nil)
	case !a.Sealed:
		return append([]byte(nil), i.payload...), nil
	}
	info, err := seal.DescribeFile(i.sealed)
	switch {
	case err != nil:
		return nil, err
	case info.Bits == 0:
		return nil, errors.New("it is not encrypted and cannot be exported with --sealed")
	case info.Version == 1:
		return nil, fmt.Errorf("%w; convert it with swtpm state rekey --accept-version-1", seal.ErrVersion1)
	}
	if s.key != nil {
		if err := s.open(i, s.key); err != nil {
			return nil, err
		}
	}
	return append([]byte(nil), i.sealed...), nil
}

// Encrypted reports whether the permanent state is encrypted.
func (s *State) Encrypted() (bool, error) {
	items, err := s.items()
	if err != nil {
		return false, err
	}
	defer wipe(items)
	info, err := seal.DescribeFile(items[0].sealed)
	if err != nil {
		return false, fmt.Errorf("%s: %s: %w", s.where, items[0].name, err)
	}
	return info.Bits > 0, nil
}

// Import replaces the whole state at once by the archive's, encrypted with the key of the
// state. If the storage contains an item of a TPM of that version, Import fails unless replace is
// true; with replace these items and their backup are lost.
//
// It decodes the archive to its last byte and starts its TPM in the engine before it
// changes anything.
func (s *State) Import(a *Archive, e emul.Library, replace bool) error {
	if a.Version != s.version {
		return fmt.Errorf("the archive contains a TPM %s, but %s is for a TPM %s", a.Version, s.where, s.version)
	}
	items, err := s.unpack(a)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer wipe(items)
	if err := tryItems(e, s.version, items); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	s.declare(items)
	changes, err := s.resealAll(items, s.key)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	gone, err := s.replaced(items, replace)
	if err != nil {
		return err
	}
	return s.apply(append(changes, gone...))
}

// unpack opens and checks the items of an archive.
func (s *State) unpack(a *Archive) ([]item, error) {
	var items []item
	for _, ai := range a.Items {
		i := item{name: ai.Blob.Name(), blob: ai.Blob}
		var err error
		switch {
		case a.Sealed && s.key == nil:
			return nil, fmt.Errorf("its items are encrypted with the key of the TPM: %w; give that key", seal.ErrNoKey)
		case a.Sealed:
			i.sealed = append([]byte(nil), ai.Bytes...)
			err = s.open(&i, s.key)
		case a.Recorded:
			i.sealed = append([]byte(nil), ai.Bytes...)
			err = s.open(&i, nil)
		case a.Snapshot:
			err = s.openBlob(&i, ai.Bytes)
		default:
			i.payload = append([]byte(nil), ai.Bytes...)
			err = payload.Check(s.version, i.blob, i.payload)
		}
		items = append(items, i)
		if err != nil {
			wipe(items)
			return nil, fmt.Errorf("%s: %w", i.name, err)
		}
	}
	return items, nil
}

// replaced returns the changes that remove existing items that are not among items.
func (s *State) replaced(items []item, replace bool) ([]nv.Change, error) {
	stays := map[string]bool{}
	for _, i := range items {
		stays[i.name] = true
	}
	all := s.names()
	if s.version == tpm.V20 { // a file without prefixes may have the savestate of a TPM 1.2
		all = append(all, item{name: nv.Savestate, blob: tpm.Savestate})
	}
	var gone []nv.Change
	for _, i := range all {
		there, err := s.has(i.name)
		switch {
		case err != nil && !replace:
			return nil, err
		case err == nil && !there:
		case !replace:
			return nil, fmt.Errorf("%s already has a TPM %s (%s); give --replace to lose it", s.where, s.version, i.name)
		case !stays[i.name]:
			gone = append(gone, nv.Change{Name: s.prefix + i.name})
		}
	}
	return gone, nil
}

// Kinds returns the names of the items of the archive.
func (a *Archive) Kinds() []string {
	var names []string
	for _, i := range a.Items {
		names = append(names, i.Blob.Name())
	}
	return names
}
