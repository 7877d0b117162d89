package nv

import (
	"bytes"
	"errors"
	"io/fs"
)

// Scratch returns a Backend that has the items of b and makes all changes in memory only, so
// that a TPM can use it and leave no trace. It owns b, and its lock is the lock of b, which should
// be opened for a dry run. A nil b has no items.
func Scratch(b Backend) Backend {
	if b == nil {
		b = nothing{}
	}
	return &scratch{Backend: b, items: map[string][]byte{}}
}

type scratch struct {
	Backend
	items map[string][]byte // items that differ from the Backend's; nil: deleted
}

func (s *scratch) Load(name string) ([]byte, error) {
	blob, ok := s.items[name]
	switch {
	case !ok:
		return s.Backend.Load(name)
	case blob == nil:
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(blob), nil
}

func (s *scratch) Store(name string, blob []byte) error {
	s.items[name] = append([]byte{}, blob...)
	return nil
}

func (s *scratch) Delete(name string) error {
	blob, err := s.Load(name)
	clear(blob)
	if err == nil {
		s.items[name] = nil
	}
	return err
}

// Unchanged returns false: a store that is not needed costs nothing here.
func (s *scratch) Unchanged(string) bool { return false }

// SwapBackup drops all changes: they belong to the state that is replaced.
func (s *scratch) SwapBackup() error {
	b, ok := s.Backend.(BackupBackend)
	if !ok {
		return errors.ErrUnsupported
	}
	clear(s.items)
	return b.SwapBackup()
}

func (s *scratch) Close() error {
	for _, blob := range s.items {
		clear(blob)
	}
	return s.Backend.Close()
}

// nothing is a Backend without items.
type nothing struct{}

func (nothing) Load(string) ([]byte, error) { return nil, fs.ErrNotExist }
func (nothing) Store(string, []byte) error  { return errors.ErrUnsupported }
func (nothing) Delete(string) error         { return fs.ErrNotExist }
func (nothing) Unchanged(string) bool       { return false }
func (nothing) Lock() error                 { return nil }
func (nothing) Unlock() error               { return nil }
func (nothing) Close() error                { return nil }
