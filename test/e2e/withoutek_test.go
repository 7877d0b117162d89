package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/seal"
)

// TestInspectWithoutEK checks that inspect --ek says so if the TPM has no endorsement key, with the
// JSON unchanged.
func TestInspectWithoutEK(t *testing.T) {
	t.Parallel()
	payload, err := os.ReadFile("../../internal/emul/payload/testdata/tpm2-fresh.permall")
	if err != nil {
		t.Fatal(err)
	}
	blob, err := seal.Seal(payload, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), blob, 0o600); err != nil {
		t.Fatal(err)
	}
	for option, want := range map[string]string{"--json=false": "", "--json": "[]\n"} {
		code, stdout, stderr := runCmd(t, exec.Command(ours("swtpm"), "state", "inspect", "--ek", option, "--tpmstate", "dir="+dir))
		if code != 0 || stdout != want || strings.Count(stderr, "the TPM has no endorsement key\n") != 1 {
			t.Errorf("%s: code %d, %q, %q, want %q and one line", option, code, stdout, stderr, want)
		}
	}
}
