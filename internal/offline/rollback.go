package offline

import (
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Rollback exchanges the permanent state and the previous one. It fails if libtpms does not
// start with the previous one. A volatile or saved state belongs to the newer generation:
// Rollback removes it if drop is true, and fails otherwise.
//
// It removes that state first: if the process is killed after that, the TPM is as after a power
// failure.
func (s *State) Rollback(e emul.Library, drop bool) error {
	b, ok := s.b.(nv.BackupBackend)
	if !ok {
		return fmt.Errorf("%s has no previous generation: %w", s.where, errors.ErrUnsupported)
	}
	older, err := s.older()
	if err != nil {
		return err
	}
	defer wipe([]item{older})
	if err := tryStart(e, s.version, map[string][]byte{nv.Permanent: older.payload}); err != nil {
		return fmt.Errorf("%s: %w", s.where, inBackup(err))
	}
	for _, blob := range []tpm.Blob{tpm.Volatile, tpm.Savestate} {
		if err := s.dropNewer(blob.Name(), drop); err != nil {
			return err
		}
	}
	if err := b.SwapBackup(); err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	_, err = s.Accept()
	return err
}

// older returns the opened backup.
func (s *State) older() (item, error) {
	i := item{name: nv.Backup, blob: tpm.Permanent}
	var err error
	if i.sealed, err = s.b.Load(s.prefix + i.name); err != nil {
		return i, fmt.Errorf("%s: no previous generation, which only a TPM with backup has: %w", s.where, err)
	}
	if err := s.open(&i, s.key); err != nil {
		return i, fmt.Errorf("%s: the previous generation is damaged: %w", s.where, err)
	}
	return i, nil
}

// dropNewer removes an item of the newer generation if it exists.
func (s *State) dropNewer(name string, drop bool) error {
	there, err := s.has(name)
	switch {
	case err != nil || !there:
		return err
	case !drop:
		return fmt.Errorf("%s: %s belongs to the newer generation; give --drop-volatile to remove it", s.where, name)
	}
	if err := s.b.Delete(s.prefix + name); err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	return nil
}
