package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestDoctorReserve checks that the doctor agrees with the start of a TPM of root on a full ext4: root may
// use the blocks that are reserved for it, and none of those that the kernel reserves for itself.
func TestDoctorReserve(t *testing.T) {
	needRoot(t, "it mounts a loop device")
	t.Parallel()
	for name, full := range map[string]bool{"filled by a user": false, "filled by root": true} {
		t.Run(name, func(t *testing.T) {
			disk := ext4(t, 8<<20, 20)
			state := filepath.Join(disk.dir, "state")
			if err := os.Mkdir(state, 0o700); err != nil {
				t.Fatal(err)
			}
			dd := exec.Command("dd", "if=/dev/zero", "of="+disk.filler, "bs=1k")
			if !full {
				if err := os.Chmod(disk.dir, 0o777); err != nil {
					t.Fatal(err)
				}
				dd = asUser("/", "dd", dd.Args[1:]...)
			}
			if code, _, stderr := runCmd(t, dd); code != 1 || !strings.Contains(stderr, "No space left on device") {
				t.Fatalf("dd: exit code %d\n%s", code, stderr)
			}
			args := []string{"socket", "--tpm2", "--tpmstate", "dir=" + state, "--ctrl", "type=unixio,path=" + filepath.Join(harness.TempDir(t), "ctrl")}
			code, stdout, _ := runCmd(t, exec.Command(ours("swtpm"), append([]string{"doctor", "--"}, args...)...))
			if said := strings.Contains(stdout, "space: "+state+": the file system is full: "); said != full || (code != 0) != full {
				t.Errorf("doctor: exit code %d\n%s", code, stdout)
			}
			p := harness.Start(t, exec.Command(ours("swtpm"), append(args, "--server", "type=unixio,path="+filepath.Join(state, "data"), "--flags", "not-need-init,startup-clear")...))
			harness.Await(t, "the first store", func() bool {
				_, err := os.Stat(filepath.Join(state, "tpm2-00.permall"))
				return err == nil || strings.Contains(p.Out.String(), "store failed")
			})
			if failed := strings.Contains(p.Out.String(), "no space left on device"); failed != full {
				t.Errorf("the start: %s", p.Out.String())
			}
		})
	}
}
