package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestStartCalls checks the system calls of a start, up to a TPM that is on and confined: one
// program, no process, no round of signals for each privilege.
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
		case slices.Contains([]string{"nanosleep", "futex", "sched_yield", "epoll_pwait"}, name):
			continue // their number depends on time
		case name == "clone" && !strings.Contains(args, "CLONE_THREAD"), strings.HasSuffix(name, "fork"):
			name = "a process"
		}
		calls[name]++
		calls["all"]++
	}
	for name, most := range map[string]int{
		"all": 700, "prctl": 120, "execve": 1, "a process": 0, "rt_sigreturn": 20, "capset": 20, "landlock_restrict_self": 20,
	} {
		if calls[name] > most {
			t.Errorf("%s: %d times, want at most %d", name, calls[name], most)
		}
	}
	if calls["all"] < 200 || calls["execve"] != 1 {
		t.Errorf("the trace has %d calls, %d of them execve: is it one?", calls["all"], calls["execve"])
	}
}

// TestStartFaults checks the page faults of a program that only prints its version, and of
// a start up to a TPM that is on and confined.
func TestStartFaults(t *testing.T) {
	skipWithRace(t)
	t.Parallel()
	dir := vector(t, v20)
	for _, c := range []struct {
		most int64
		args []string
	}{
		{540, []string{"version"}},
		{670, []string{"socket", "--tpm2", "--tpmstate", "dir=" + dir, "--flags", "startup-clear", "--print-info", "1"}},
	} {
		least := int64(1 << 62)
		for range 3 {
			cmd := exec.Command(ours("swtpm"), c.args...)
			if code, _, stderr := runCmd(t, cmd); code != 0 {
				t.Fatalf("%q: exit code %d: %s", c.args, code, stderr)
			}
			least = min(least, cmd.ProcessState.SysUsage().(*syscall.Rusage).Minflt)
		}
		t.Logf("%q: %d page faults", c.args, least)
		if least > c.most || least < 50 {
			t.Errorf("%q: %d page faults, want at most %d", c.args, least, c.most)
		}
	}
}
