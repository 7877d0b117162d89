package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestQuickstartScript checks that contrib/quickstart.sh starts one TPM and stops it, and reports
// no success if another program has one of the ports or the number of its process.
func TestQuickstartScript(t *testing.T) {
	harness.Need(t, "tpm2_getrandom", "tpm2-tools")
	t.Parallel()
	dir := harness.TempDir(t)
	port := harness.FreePort(t)
	err := errors.Join(os.Mkdir(filepath.Join(dir, "contrib"), 0o755), os.Mkdir(filepath.Join(dir, "examples"), 0o755),
		os.Symlink(os.Getenv(binVar), filepath.Join(dir, "bin")))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "contrib/quickstart.sh"), []byte(harness.Read(t, "../../contrib/quickstart.sh")))
	write(t, filepath.Join(dir, "examples/quickstart.toml"), []byte(quickstart(t, port)))
	script := func(verb string) (code int, stdout, stderr string) {
		return runCmd(t, exec.Command("sh", filepath.Join(dir, "contrib/quickstart.sh"), verb))
	}
	pidFile := filepath.Join(dir, "bin/quickstart.pid")
	t.Cleanup(func() {
		script("stop")
		_ = os.Remove(pidFile)
		_ = os.Remove(filepath.Join(dir, "bin/quickstart.log"))
	})

	for _, listen := range []string{"127.0.0.1:%d", "[::]:%d"} {
		for p := port; p <= port+1; p++ {
			stranger, err := net.Listen("tcp", fmt.Sprintf(listen, p))
			if err != nil {
				t.Fatal(err)
			}
			code, stdout, stderr := script("start")
			_ = stranger.Close()
			begin := fmt.Sprintf("port %d is in use by ", p)
			end := fmt.Sprintf(", process %d: stop it with kill %d, or change the ports in examples/quickstart.toml\n", os.Getpid(), os.Getpid())
			if code != 1 || stdout != "" || !strings.HasPrefix(stderr, begin) || !strings.HasSuffix(stderr, end) {
				t.Errorf("port %d is taken: exit code %d, stdout %q, stderr %q, want 1 and %q ... %q", p, code, stdout, stderr, begin, end)
			}
		}
	}

	// The file has the number of another program, as after a restart of the machine.
	write(t, pidFile, []byte(strconv.Itoa(os.Getpid())+"\n"))
	if code, stdout, _ := script("stop"); code != 0 || stdout != "The quickstart TPM does not run.\n" {
		t.Errorf("stop with the number of another program: exit code %d, %q", code, stdout)
	}
	var first string
	for range 2 { // the second start finds the TPM of the first one
		if code, stdout, stderr := script("start"); code != 0 || !strings.Contains(stdout, "just answered with 16 random bytes: ") {
			t.Fatalf("start: exit code %d\n%s%s", code, stdout, stderr)
		}
		pid := harness.Read(t, pidFile)
		if first != "" && first != pid {
			t.Errorf("the second start has begun process %s, the first one %s", pid, first)
		}
		first = pid
	}
	if code, stdout, stderr := script("stop"); code != 0 || !strings.HasPrefix(stdout, "The quickstart TPM is off.") {
		t.Errorf("stop: exit code %d\n%s%s", code, stdout, stderr)
	}
}
