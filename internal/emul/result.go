package emul

import (
	"strings"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// resultError is an error with the result that the client gets.
type resultError struct {
	err    error
	result tpm.Result
}

// withResult returns err with the result that the client gets for it.
func withResult(err error, r tpm.Result) error { return &resultError{err, r} }

// Error returns what failed, the result, and then the remedies, which follow the first semicolon.
// explain may add one more remedy.
func (e *resultError) Error() string {
	what, remedies, found := strings.Cut(e.err.Error(), "; ")
	what += ": " + e.result.Error()
	if found {
		what += "; " + remedies
	}
	return what
}

// Unwrap returns the error and the result.
func (e *resultError) Unwrap() []error { return []error{e.err, e.result} }
