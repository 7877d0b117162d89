package offline

import (
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// ResetLockout sets the number of failed authorizations of a TPM 2.0 to zero, and returns
// the old number and the number that locks the TPM. Nothing else changes. It checks that the
// engine starts with the changed state before it stores that.
func (s *State) ResetLockout(e emul.Engine) (failed, limit uint32, err error) {
	if s.version != tpm.V20 {
		return 0, 0, fmt.Errorf("%s: a TPM 1.2 does not count an interrupted session as a failed authorization: %w", s.where, errors.ErrUnsupported)
	}
	items, err := s.items()
	if err != nil {
		return 0, 0, err
	}
	defer wipe(items)
	if items[len(items)-1].name == nv.Backup {
		items = items[:len(items)-1]
	}
	if err := s.openAll(items); err != nil {
		return 0, 0, err
	}
	if failed, limit, err = payload.ResetLockout(items[0].payload); err != nil || failed == 0 {
		return failed, limit, err
	}
	if err := tryItems(e, s.version, items); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", s.where, err)
	}
	s.declare(items)
	changes, err := s.resealAll(items, s.key)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", s.where, err)
	}
	return failed, limit, s.apply(changes)
}
