package offline

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// FromSnapshot returns the archive of a snapshot, which names writer as its program. The
// caller should Wipe it.
func FromSnapshot(s *tpm.Snapshot, writer string) *Archive {
	a := &Archive{Version: s.Version, Snapshot: true, Created: s.Time, Writer: writer}
	for _, i := range s.Blobs {
		a.Items = append(a.Items, ArchiveItem{Blob: i.Kind, Changed: s.Time, Bytes: bytes.Clone(i.Bytes)})
		seal.Wipe(i.Bytes)
	}
	return a
}

// BlobsEncrypted reports whether the emulator has encrypted the items of a snapshot.
func (a *Archive) BlobsEncrypted() bool {
	return !slices.ContainsFunc(a.Items, func(i ArchiveItem) bool {
		info, err := seal.Inspect(i.Bytes)
		return err == nil && !info.Encrypted
	})
}

// DropVolatile removes all items but the permanent one: the TPM is then as after a power
// failure.
func (a *Archive) DropVolatile() {
	for _, i := range a.Items[1:] {
		seal.Wipe(i.Bytes)
	}
	a.Items = a.Items[:1]
}

// openBlob opens an item of a snapshot, with the keys of the state.
func (s *State) openBlob(i *item, blob []byte) error {
	p, record, err := seal.Keys{File: s.key, Migration: s.migration}.OpenBlobWithRecord(blob, false)
	i.record = record
	return s.opened(i, p, err)
}

// Permanent returns the payload of the permanent state. The caller should seal.Wipe it.
func (s *State) Permanent() ([]byte, error) {
	items, err := s.items()
	if err != nil {
		return nil, err
	}
	defer wipe(items)
	if err := s.open(&items[0], s.key); err != nil {
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	return bytes.Clone(items[0].payload), nil
}
