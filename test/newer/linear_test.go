package newer_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestStateFile checks that one file moves between ours and today's reference: --print-info starts
// the TPM in it, and --print-states of both print the same about it.
func TestStateFile(t *testing.T) {
	for _, firstOurs := range []bool{true, false} {
		dir, isOurs := t.TempDir(), firstOurs
		for hop := range 6 {
			words := reference(t)
			if isOurs {
				words = ours(t)
			}
			const at = "socket --tpm2 --tpmstate backend-uri=file://image,lock "
			if out := try(t, dir, nil, words, strings.Fields(at+"--print-info 0x20")...); out.code != 0 || !strings.Contains(out.stdout, `"ActiveProfile"`) {
				t.Fatalf("hop %d, ours %t: %+v", hop, isOurs, out)
			}
			a := try(t, dir, nil, ours(t), strings.Fields(at+"--print-states")...)
			b := try(t, dir, nil, reference(t), strings.Fields(at+"--print-states")...)
			if a.stdout != b.stdout || !strings.Contains(a.stdout, `"permall"`) {
				t.Errorf("hop %d: ours says %q, the reference %q", hop, a.stdout, b.stdout)
			}
			if hop%3 != 1 {
				isOurs = !isOurs
			}
		}
	}
}

// TestStateFileLock checks that a process that holds the lock of a file excludes the other
// program, and that both report this in the same words.
func TestStateFileLock(t *testing.T) {
	for _, words := range [][2][]string{{ours(t), reference(t)}, {reference(t), ours(t)}} {
		dir := t.TempDir()
		image := filepath.Join(dir, "image")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := []string{"socket", "--tpm2", "--tpmstate", "backend-uri=file://" + image + ",lock"}
		sock := filepath.Join(dir, "c")
		owner := exec.Command(words[0][0], slices.Concat(words[0][1:], at, []string{"--ctrl", "type=unixio,path=" + sock})...)
		if err := owner.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = owner.Process.Kill()
			_ = owner.Wait()
		})
		ctrl := harness.Dial(t, nil, sock)
		if _, err := ctrl.Write([]byte{0, 0, 0, 2, 0, 0, 0, 0}); err != nil { // INIT
			t.Fatal(err)
		}
		var rep [4]byte
		if n, err := ctrl.Read(rep[:]); n != 4 || rep != [4]byte{} {
			t.Fatalf("INIT answers % x, %v", rep[:n], err)
		}
		out := try(t, dir, nil, words[1], append(slices.Clone(at), "--flags", "not-need-init")...)
		want := "SWTPM_NVRAM_LinearFile_Lock: Could not lock backend-uri file://" + image + ": Resource temporarily unavailable"
		if out.code != 1 || !strings.Contains(out.stderr, want) {
			t.Errorf("%s beside another: %+v, want %q", words[1][len(words[1])-1], out, want)
		}
	}
}
