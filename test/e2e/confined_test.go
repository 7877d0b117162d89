package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/record"
)

// opening is a line of strace about a state file that is opened, or a filter that
// comes into force.
var opening = regexp.MustCompile(`(openat\(.*tpm2-00\.[a-z]+.* = \d|seccomp\(SECCOMP_SET_MODE_FILTER)`)

// TestVerbsAreConfined checks that a verb is confined before it reads a byte of the state,
// because an attacker may have written the state.
func TestVerbsAreConfined(t *testing.T) {
	t.Parallel()
	strace := harness.Need(t, "strace", "strace")
	dir := vector(t, v20)
	backup := filepath.Join(dir, "tpm2-00.permall.bak")
	write(t, backup, []byte(harness.Read(t, filepath.Join(dir, "tpm2-00.permall"))))
	archive := filepath.Join(harness.TempDir(t), "archive")
	where := []string{"--tpm", "2.0", "--tpmstate", "dir=" + dir}
	for _, verb := range [][]string{
		{"inspect"},
		{"inspect", "--ek"},
		{"verify"},
		{"export", archive},
		{"import", "--replace", archive},
		{"rekey", "--new-key", stateKeys["aes-128"]},
		{"rekey", "--no-key", "--key", stateKeys["aes-128"]},
		{"rollback", "--drop-volatile"},
	} {
		if verb[0] == "rollback" { // import and rekey leave none
			write(t, backup, []byte(harness.Read(t, filepath.Join(dir, "tpm2-00.permall"))))
		}
		trace := filepath.Join(harness.TempDir(t), "trace")
		args := append([]string{"-f", "-o", trace, "-e", "trace=openat,seccomp", ours("swtpm"), "state", verb[0]}, where...)
		code, stdout, stderr := runCmd(t, exec.Command(strace, append(args, verb[1:]...)...))
		if code != 0 {
			t.Fatalf("%s: exit code %d\n%s%s", verb, code, stdout, stderr)
		}
		var order []string
		for line := range strings.Lines(harness.Read(t, trace)) {
			if m := opening.FindString(line); m != "" {
				order = append(order, m)
			}
		}
		if len(order) < 2 || !strings.HasPrefix(order[0], "seccomp") {
			t.Errorf("%s: the filter must come first, and then state is opened:\n%s", verb, strings.Join(order, "\n"))
		}
	}
}

// TestPrintInfoIsConfined checks the same for an emulator that only prints data of a TPM.
func TestPrintInfoIsConfined(t *testing.T) {
	t.Parallel()
	strace := harness.Need(t, "strace", "strace")
	trace := filepath.Join(harness.TempDir(t), "trace")
	code, stdout, stderr := runCmd(t, exec.Command(strace, "-f", "-o", trace, "-e", "trace=openat,seccomp", ours("swtpm"),
		"socket", "--tpm2", "--tpmstate", "dir="+vector(t, v20), "--print-info", "1"))
	if code != 0 || !strings.Contains(stdout, "{") {
		t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
	}
	first := opening.FindString(harness.Read(t, trace))
	if !strings.HasPrefix(first, "seccomp") {
		t.Errorf("the filter must come before the state is opened, but first is %q", first)
	}
}

// TestNoFilter checks that a process which cannot install the filter ends, and its exit code;
// swtpm cuse has an exit code of its own.
func TestNoFilter(t *testing.T) {
	t.Parallel()
	if os.Getenv(record.Var) != "" {
		t.Skip("a program that is recorded has another filter")
	}
	strace := harness.Need(t, "strace", "strace")
	dir := vector(t, v20)
	for _, c := range []struct {
		code int
		args []string
	}{
		{242, []string{"cuse", "-n", "swtpm-no-filter", "--tpm2", "--tpmstate", "dir=" + dir, "--print-info", "1"}},
		{1, []string{"socket", "--tpm2", "--tpmstate", "dir=" + dir, "--print-info", "1"}},
		{1, []string{"socket", "--tpm2", "--tpmstate", "dir=" + dir, "--server", "type=unixio,path=" + filepath.Join(dir, "sock")}},
		{1, []string{"state", "verify", "--tpmstate", "dir=" + dir}},
	} {
		cmd := exec.Command(strace, append([]string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=seccomp", "-e", "inject=seccomp:error=EPERM", ours("swtpm")}, c.args...)...)
		code, stdout, stderr := runCmd(t, cmd)
		if code != c.code || stdout != "" || !strings.Contains(stderr, "sandbox: seccomp: ") {
			t.Errorf("%s: exit code %d, want %d\n%s%s", c.args, code, c.code, stdout, stderr)
		}
	}
}
