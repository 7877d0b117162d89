package emul

import (
	"errors"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestWithResult checks that the result comes before the remedies, and that the client gets the result.
func TestWithResult(t *testing.T) {
	for text, want := range map[string]string{
		"a: b":                 "a: b: TPM_RESULT 0x9 (TPM_FAIL)",
		"a: b; do c":           "a: b: TPM_RESULT 0x9 (TPM_FAIL); do c",
		"a: b; do c; or do d;": "a: b: TPM_RESULT 0x9 (TPM_FAIL); do c; or do d;",
	} {
		cause := errors.New(text)
		err := withResult(cause, tpm.Fail)
		if err.Error() != want || !errors.Is(err, cause) || tpm.ResultOf(err) != tpm.Fail {
			t.Errorf("withResult(%q) = %q with result %v, want %q", text, err, tpm.ResultOf(err), want)
		}
	}
}

// TestOneRemedyAfterAnother checks that a message has the result before both remedies: the one of the
// cause and the one for the kind of error.
func TestOneRemedyAfterAnother(t *testing.T) {
	cause := errors.New("the store holds damaged data; restore a generation")
	b := newBench(t, Options{})
	b.d.load = func() error { return cause }
	err := b.Init(false)
	const want = "the store holds damaged data: TPM_RESULT 0x101 (TPM_RC_FAILURE); restore a generation; see the manual"
	if got := b.explain(err); !errors.Is(err, cause) || got[max(0, len(got)-len(want)):] != want {
		t.Errorf("Init: %q, want %q at the end", got, want)
	}
}
