package offline

import (
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// Verify proves that a TPM would start with this state: every item is decoded to
// its last byte and loaded into the engine. A backup is proved by itself. It
// returns the names of the items, or all that is wrong. Nothing is written.
//
// A change of several items that was cut short is seen as it will be finished.
func (s *State) Verify(e emul.Engine) ([]string, error) {
	items, err := s.items()
	if err != nil {
		return nil, err
	}
	defer wipe(items)
	if err := s.openAll(items); err != nil {
		return nil, err
	}
	var names []string
	var errs []error
	for _, i := range items {
		names = append(names, i.name)
		if i.name == nv.Backup {
			errs = append(errs, inBackup(prove(e, s.version, map[string][]byte{nv.Permanent: i.payload})))
		}
	}
	errs = append(errs, proveItems(e, s.version, items))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	return names, nil
}

func inBackup(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", nv.Backup, err)
}
