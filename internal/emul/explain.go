package emul

import (
	"fmt"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// explain returns one line with what failed, where, the cause and the remedy.
func (t *TPM) explain(err error) string {
	where := t.opt.Where
	if where == "" {
		where = "nowhere"
	}
	return fmt.Sprintf("TPM %s with its state in %s: %v%s", t.opt.Version, where, err, t.remedy(err))
}

// remedy returns "; " and what a user can do about err, "" if that is not known.
func (t *TPM) remedy(err error) string {
	if t.opt.Remedy == nil {
		return ""
	}
	if text := t.opt.Remedy(err); text != "" {
		return "; " + text
	}
	return ""
}

// TooNewError is an error of libtpms about a state that a newer libtpms wrote.
type TooNewError struct {
	Err   error
	Needs string // the libtpms that can use the state
}

// Error returns the text of the error of libtpms.
func (e *TooNewError) Error() string { return e.Err.Error() }

// Unwrap returns the error of libtpms.
func (e *TooNewError) Unwrap() error { return e.Err }

// Blame returns err, which a libtpms gave for the permanent state p of a TPM of version v, as a
// *TooNewError if that libtpms, of the version library, is too old for p.
func Blame(err error, v tpm.Version, p []byte, library string) error {
	if err == nil || len(p) == 0 {
		return err
	}
	if needs := payload.Needs(v, p, library); needs != "" {
		return &TooNewError{err, needs}
	}
	return err
}
