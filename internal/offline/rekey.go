package offline

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// Rekey encrypts every item with next instead of the key of the state; nil is
// plain. It returns the names of the changed items. They change all at once: at any time the TPM
// starts either with the old key or with the new one, and the next lock of the state completes or
// drops an interrupted call.
//
// Before it writes the first item, Rekey decodes all items and opens the new ones again. It does
// not change items that have the new key already. A repeated call therefore only removes what an
// interrupted one has left.
//
// Encrypted files of version 1 are accepted if version1 is true: see
// seal.OpenVersion1. The new ones are of version 2.
func (s *State) Rekey(next *seal.Key, version1 bool) ([]string, error) {
	items, err := s.items()
	if err != nil {
		return nil, err
	}
	defer wipe(items)
	var changes []nv.Change
	var names []string
	for n := range items {
		i := &items[n]
		if s.open(i, next) == nil {
			continue
		}
		err := s.open(i, s.key)
		if version1 && errors.Is(err, seal.ErrVersion1) {
			err = s.openVersion1(i)
		}
		if err != nil {
			if i.name == nv.Backup {
				err = fmt.Errorf("%w; remove it if the previous generation is not needed", err)
			}
			return nil, fmt.Errorf("%s: neither the old key nor the new one opens it; nothing was changed: %w", s.where, err)
		}
		blob, err := reseal(i, next)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", s.where, i.name, err)
		}
		names = append(names, i.name)
		changes = append(changes, nv.Change{Name: s.prefix + i.name, Blob: blob})
	}
	if len(changes) == 0 {
		return nil, s.wipeOld()
	}
	if _, ok := s.b.(nv.LeaseBackend); ok { // it stores each change as a generation, whose number is also in the record
		s.declare(items)
		if changes, err = s.resealAll(items, next); err != nil {
			return nil, fmt.Errorf("%s: %w", s.where, err)
		}
	}
	if err := s.apply(changes); err != nil {
		return nil, err
	}
	return names, nil
}

// openVersion1 opens i, an encrypted file of version 1, with the key of the state.
func (s *State) openVersion1(i *item) error {
	p, err := seal.OpenVersion1(i.sealed, s.key)
	return s.opened(i, p, err)
}

// reseal seals an item with its record, and checks that it can be opened again.
func reseal(i *item, key *seal.Key) ([]byte, error) {
	blob, err := seal.SealInto(nil, i.payload, i.record, key)
	if err != nil {
		return nil, err
	}
	back, err := seal.Open(blob, key)
	if err != nil {
		return nil, err
	}
	defer seal.Wipe(back)
	if !bytes.Equal(back, i.payload) {
		return nil, errors.New("the sealed item opens with other content")
	}
	return blob, nil
}

// apply makes the changes and checks the result. All operations store their changes through it.
func (s *State) apply(changes []nv.Change) error {
	if err := s.checkKey(changes); err != nil {
		return err
	}
	err := nv.Apply(s.b, changes)
	if errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("%s: %w; start the TPM, shut it down so that only its permanent state remains, and try again", s.where, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	for _, c := range changes {
		got, err := s.b.Load(c.Name)
		same := bytes.Equal(got, c.Blob)
		seal.Wipe(got)
		switch {
		case c.Blob == nil && errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return fmt.Errorf("%s: read back: %w", s.where, err)
		case !same:
			return fmt.Errorf("%s: %s has other content than was written; the disk is faulty", s.where, c.Name)
		}
	}
	return nil
}

// checkKey returns an error if a change would store an unencrypted item in a cluster store.
func (s *State) checkKey(changes []nv.Change) error {
	for _, c := range changes {
		if c.Blob == nil {
			continue
		}
		info, err := seal.DescribeFile(c.Blob)
		if err != nil {
			return fmt.Errorf("%s: %w", s.where, err)
		}
		if err := s.location.CheckKey(info.Bits > 0, s.plain, nv.GiveKey); err != nil {
			return err
		}
	}
	return nil
}

// wipeOld overwrites the remains of old items that an interrupted call may have left.
func (s *State) wipeOld() error {
	if b, ok := s.b.(nv.WipeBackend); ok {
		if err := b.Wipe(); err != nil {
			return fmt.Errorf("%s: %w", s.where, err)
		}
	}
	return nil
}

// has reports whether an item of that name exists, even a damaged one.
func (s *State) has(name string) (bool, error) {
	blob, err := s.b.Load(s.prefix + name)
	seal.Wipe(blob)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err == nil, errors.Is(err, nv.ErrDamaged):
		return true, nil
	}
	return false, fmt.Errorf("%s: %w", s.where, err)
}
