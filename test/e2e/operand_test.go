package e2e_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestStateOperands checks that the errors name what is missing: one operand of two, or a TPM
// that runs. Each is one line: a verb that failed has nothing to log.
func TestStateOperands(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	target := "--tpmstate=dir=" + dir
	for _, c := range []struct{ args, want string }{
		{"pull quick", "missing DIRECTORY argument"},
		{"clone vm1", "missing DST argument"},
		{"import vm1", `"vm1" is the only argument: give PROFILE and FILE, or --tpmstate and FILE`},
		{"export vm1", `"vm1" is the only argument: give PROFILE and FILE, or --tpmstate and FILE`},
		{"snapshot vm1", `"vm1" is the only argument: give PROFILE and FILE, or --ctrl and FILE`},
		{"snapshot --ctrl unix:" + filepath.Join(dir, "none") + " " + filepath.Join(dir, "file"), "the TPM is not running; use swtpm state export"},
		{"accept " + target, "no state of a TPM"},
		{"reset-lockout " + target, "no state of a TPM"},
	} {
		code, _, stderr := run(t, append([]string{"state"}, strings.Fields(c.args)...)...)
		if code == 0 || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("swtpm state %s: exit code %d, %s, want %q in one line", c.args, code, stderr, c.want)
		}
	}
}
