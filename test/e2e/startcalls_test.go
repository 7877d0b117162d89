package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestStartCalls checks the system calls of a start, up to a TPM that is on and confined: one
// program, no process, no round of signals for each privilege.
func TestStartCalls(t *testing.T) {
	t.Parallel()
	strace := harness.Need(t, "strace", "strace")
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	cmd := exec.Command(strace, "-f", "-o", trace, ours("swtpm"), "socket", "--tpm2", "--tpmstate", "dir="+dir, "--flags", "startup-clear", "--print-info", "1")
	calls := traced(t, cmd, trace)
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

// traced runs a command under strace -f -o trace and counts its system calls, processes
// and, as "all", the calls whose number does not depend on time.
func traced(t *testing.T, cmd *exec.Cmd, trace string) map[string]int {
	t.Helper()
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
		call = strings.TrimSpace(call)
		if strings.HasPrefix(call, "--- SIGURG ") { // Go's scheduler, whose calls depend on time
			calls["rt_sigreturn"]--
			calls["all"]--
			continue
		}
		name, args, isCall := strings.Cut(call, "(")
		switch {
		case !isCall || strings.HasPrefix(name, "<..."):
			continue
		case slices.Contains([]string{"nanosleep", "futex", "sched_yield", "epoll_pwait", "restart_syscall", "getpid"}, name),
			name == "tgkill" && strings.Contains(args, "SIGURG"):
			continue // their number depends on time
		case name == "clone" && !strings.Contains(args, "CLONE_THREAD"), strings.HasSuffix(name, "fork"):
			name = "a process"
		}
		calls[name]++
		calls["all"]++
	}
	return calls
}

// TestSetupCalls checks the system calls of a manufacture with certificates: one process,
// one sync for the serial numbers and two for the state.
func TestSetupCalls(t *testing.T) {
	t.Parallel()
	strace := harness.Need(t, "strace", "strace")
	dir := harness.TempDir(t)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := write("ca.conf", "statedir = "+dir+"/ca\nsigningkey = "+dir+"/ca/k.pem\nissuercert = "+dir+"/ca/c.pem\n")
	opts := write("options", "--platform-manufacturer Fedora --platform-version 2.1 --platform-model QEMU\n")
	conf := write("setup.conf", "create_certs_tool = "+ours("swtpm_localca")+"\ncreate_certs_tool_config = "+ca+"\ncreate_certs_tool_options = "+opts+"\n")
	args := func(state string) []string {
		mkdir(t, filepath.Join(dir, state))
		return []string{"--tpm2", "--tpm-state", filepath.Join(dir, state), "--create-ek-cert", "--create-platform-cert", "--config", conf}
	}
	mustRun(t, ours("swtpm_setup"), args("first")...) // creates the CA
	trace := filepath.Join(dir, "trace")
	calls := traced(t, exec.Command(strace, append([]string{"-f", "-o", trace, ours("swtpm_setup")}, args("second")...)...), trace)
	for name, most := range map[string]int{"all": 900, "fsync": 3, "execve": 1, "a process": 0} {
		if calls[name] > most {
			t.Errorf("%s: %d times, want at most %d", name, calls[name], most)
		}
	}
	if calls["fsync"] < 3 || calls["all"] < 200 {
		t.Errorf("%d calls, %d of them fsync: is the trace complete?", calls["all"], calls["fsync"])
	}
}

// TestEarlyCapabilities checks that the constructor in C prints the same capabilities as Go does, with
// few page faults, and leaves errors to Go.
func TestEarlyCapabilities(t *testing.T) {
	skipWithRace(t)
	t.Parallel()
	for _, args := range [][]string{
		{"socket", "--print-capabilities"}, {"socket", "--tpm2", "--print-capabilities"},
		{"chardev", "--print-capabilities"}, {"chardev", "--print-capabilities", "--tpm2"},
	} {
		var got string
		faults := int64(1 << 62)
		for range 3 {
			early := exec.Command(ours("swtpm"), args...)
			code, stdout, stderr := runCmd(t, early)
			if code != 0 || stderr != "" {
				t.Fatalf("%q: exit code %d: %s", args, code, stderr)
			}
			got, faults = stdout, min(faults, early.ProcessState.SysUsage().(*syscall.Rusage).Minflt)
		}
		_, want, _ := runCmd(t, exec.Command(ours("swtpm"), append(args, "--print-capabilities")...))
		if got != want || !strings.HasSuffix(got, " }\n") {
			t.Errorf("%q: %q, want what Go prints: %q", args, got, want)
		}
		if !strings.Contains(got, "cmdarg-print-info") && faults > 320 { // a libtpms with profiles is left to Go
			t.Errorf("%q: %d page faults, want at most 320", args, faults)
		}
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd := exec.Command(ours("swtpm"), "socket", "--print-capabilities")
	cmd.Stdout = full
	var out strings.Builder
	cmd.Stderr = &out
	if err := cmd.Run(); err == nil || !strings.Contains(out.String(), "no space left") {
		t.Errorf("output to /dev/full: %v, %q, want an error", err, out.String())
	}
}

// TestStartFaults checks the page faults of a program that only prints its version, and of
// a start up to a TPM that is on and confined. A copied program can have 70 more than the one
// that the linker wrote, because the page cache has it in smaller units.
func TestStartFaults(t *testing.T) {
	skipWithRace(t)
	t.Parallel()
	dir := vector(t, v20)
	for _, c := range []struct {
		most int64
		args []string
	}{
		{500, []string{"version"}},
		{600, []string{"socket", "--tpm2", "--tpmstate", "dir=" + dir, "--flags", "startup-clear", "--print-info", "1"}},
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
