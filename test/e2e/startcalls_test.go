package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestStartCalls checks how much a start takes, up to a TPM that is on and confined: one
// program, no process, no round of signals for each privilege. It counts system
// calls; how long they take does not matter.
func TestStartCalls(t *testing.T) {
	t.Parallel()
	strace := need(t, "strace", "strace")
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	cmd := exec.Command(strace, "-f", "-o", trace, ours("swtpm"), "socket", "--tpm2", "--tpmstate", "dir="+dir, "--flags", "startup-clear", "--print-info", "1")
	code, _, stderr := runCmd(t, cmd)
	if strings.Contains(stderr, "ptrace") {
		t.Skipf("strace may not trace here: %s", stderr)
	}
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]int{}
	for line := range strings.Lines(string(b)) {
		_, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, args, isCall := strings.Cut(strings.TrimSpace(call), "(")
		switch {
		case !isCall || strings.HasPrefix(name, "<..."):
			continue
		case name == "clone" && !strings.Contains(args, "CLONE_THREAD"), strings.HasSuffix(name, "fork"):
			name = "a process"
		case name == "prctl" && strings.HasPrefix(args, "PR_CAPBSET_DROP"):
			name = "PR_CAPBSET_DROP"
		}
		calls[name]++
		calls["all"]++
	}
	const capabilities = 64
	for name, most := range map[string]int{
		"all": 2000, "execve": 1, "a process": 0, "rt_sigreturn": 60, "PR_CAPBSET_DROP": capabilities, "capset": 20, "landlock_restrict_self": 20,
	} {
		if calls[name] > most {
			t.Errorf("%s: %d times, want at most %d", name, calls[name], most)
		}
	}
	if calls["all"] < 200 || calls["execve"] != 1 {
		t.Errorf("the trace has %d calls, %d of them execve: is it one?", calls["all"], calls["execve"])
	}
}
