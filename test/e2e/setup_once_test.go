package e2e_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// onceProfile is a profile of a TPM that is made quickly.
func onceProfile(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "vm.toml")
	write(t, path, fmt.Appendf(nil, "control.listen = \"unix:c\"\n[tpmstate]\ndir = \"%s/state\"\ncreate = true\n"+
		"[manufacture]\nek = [\"secp256r1\"]\nconfig = \"/dev/null\"\n", dir))
	return path
}

// setUpAtOnce starts so many setups of a profile at once. All must end well; it returns
// how many of them have made the TPM.
func setUpAtOnce(t *testing.T, n int, profile string) (made int) {
	t.Helper()
	var all []*harness.Process
	for range n {
		all = append(all, harness.Start(t, exec.Command(ours("swtpm-setup"), profile)))
	}
	for _, p := range all {
		code, out := p.Wait(t), p.Out.String()
		isMaker := strings.Contains(out, "Successfully authored TPM state.")
		if code != 0 || isMaker == strings.Contains(out, "leaving it unchanged") {
			t.Errorf("exit code %d, want 0 and a TPM that is made, or left as it is:\n%s", code, out)
		}
		if isMaker {
			made++
		}
	}
	return made
}

// TestSetupAtOnce checks that one of several concurrent setups of one profile creates the TPM, and
// that all others wait and find it, also if a previous setup was killed before it could record the
// manufacture.
func TestSetupAtOnce(t *testing.T) {
	t.Parallel()
	const rounds, starts = 3, 6
	for range rounds {
		dir := harness.TempDir(t)
		profile, state := onceProfile(t, dir), filepath.Join(dir, "state")
		if made := setUpAtOnce(t, starts, profile); made != 1 {
			t.Errorf("%d of %d setups have made the TPM, want 1", made, starts)
		}
		tpm, mark := harness.Read(t, filepath.Join(state, v20.file())), filepath.Join(state, ".manufactured")
		if tpm == "" || !strings.Contains(harness.Read(t, mark), `"done":`) {
			t.Errorf("a TPM of %d bytes, the record says %s", len(tpm), harness.Read(t, mark))
		}
		for range rounds {
			write(t, mark, []byte(`{"begun":"2026-01-02T03:04:05Z"}`))
			if made := setUpAtOnce(t, starts, profile); made != 0 {
				t.Errorf("%d setups have made a TPM that was there", made)
			}
			if !strings.Contains(harness.Read(t, mark), `"done":`) {
				t.Errorf("the record says %s", harness.Read(t, mark))
			}
		}
		if harness.Read(t, filepath.Join(state, v20.file())) != tpm {
			t.Error("the TPM is another one")
		}
		if left, _ := filepath.Glob(filepath.Join(state, "*.new")); len(left) > 0 {
			t.Errorf("%q are left", left)
		}
	}
}
