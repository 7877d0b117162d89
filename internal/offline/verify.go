package offline

import (
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// Verify checks that a TPM starts with this state: it decodes every item to its last byte
// and loads it into the engine. It checks a backup separately. It returns the names of the
// items, or all errors. It writes nothing.
//
// It reads an interrupted change of several items as if it were complete.
func (s *State) Verify(e emul.Library) ([]string, error) {
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
			errs = append(errs, inBackup(tryStart(e, s.version, map[string][]byte{nv.Permanent: i.payload})))
		}
	}
	errs = append(errs, tryItems(e, s.version, items))
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
