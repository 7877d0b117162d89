package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/record"
)

// unavoidable are system calls without which no program starts, ends or reports: the dynamic linker and libc make them, or
// no message can be written.
var unavoidable = []string{"execve", "arch_prctl", "mmap", "mprotect", "open", "openat", "read", "pread64", "close", "fstat", "newfstatat",
	"write", "exit_group", "rt_sigreturn"}

// refusing returns a start of swtpm with both channels in which every call is refused with errno; "" refuses nothing. The TPM
// ends when it is on, because its client has disconnected. The trace goes to the file trace.
func refusing(t *testing.T, call, errno, trace string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	args := []string{"-f", "-qq", "-o", trace}
	if call != "" {
		args = append(args, "-e", "trace="+call, "-e", "inject="+call+":error="+errno)
	}
	cmd := exec.Command(harness.Need(t, "strace", "strace"), append(args, ours("swtpm"), "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--flags", "startup-clear", "--ctrl", "type=unixio,path="+filepath.Join(dir, "c"), "--fd", "3")...)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(pair[1])
	client := os.NewFile(uintptr(pair[0]), "client")
	t.Cleanup(func() { client.Close() })
	cmd.ExtraFiles = []*os.File{client}
	return cmd
}

// TestRefusedCalls refuses one system call of a start after the other, as the filter of a service or container may do. A TPM
// must start without the call, or end with exit code 1 and the reason in one line; the Go runtime must not abort.
func TestRefusedCalls(t *testing.T) {
	t.Parallel()
	if os.Getenv(record.Var) != "" {
		t.Skip("a program that is recorded makes other calls")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	seen := traced(t, refusing(t, "", "", trace), trace)
	calls := 0
	for name := range seen {
		if slices.Contains(unavoidable, name) || strings.Contains(name, " ") || name == "all" {
			continue
		}
		calls++
		for _, errno := range []string{"EPERM", "ENOSYS"} {
			code, _, stderr := runCmd(t, refusing(t, name, errno, os.DevNull))
			lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
			last := lines[len(lines)-1]
			if code != 0 && (code != 1 || !strings.HasPrefix(last, "swtpm: ") || !strings.Contains(last, "; ")) {
				t.Errorf("%s, %s: exit code %d, %q; want 0, or 1 and a reason with a remedy", name, errno, code, stderr)
			}
			for _, sign := range []string{"goroutine", "runtime", "SIG", "fatal", "panic"} {
				if strings.Contains(stderr, sign) {
					t.Errorf("%s, %s: the runtime aborts:\n%s", name, errno, stderr)
				}
			}
		}
	}
	if calls < 40 {
		t.Errorf("the start has %d kinds of system calls, want at least 40: %v", calls, seen)
	}
}

// TestRefusedNames checks that the message about a call that the Go runtime needs names it, in all programs.
func TestRefusedNames(t *testing.T) {
	t.Parallel()
	strace := harness.Need(t, "strace", "strace")
	dir := t.TempDir()
	for _, c := range []struct {
		program string
		args    []string
		calls   string
	}{
		{"swtpm", []string{"socket", "-p", "0"}, "accept4 epoll_create1 epoll_ctl epoll_pwait eventfd2 fcntl futex getrandom gettid rt_sigprocmask sigaltstack"},
		{"swtpm", []string{"socket", "-d", "-p", "0"}, "epoll_create1"},
		{"swtpm", []string{"state", "inspect", "--tpmstate", "dir=" + dir}, "epoll_create1 eventfd2 getrandom"},
		{"swtpm", []string{"list"}, "epoll_create1 eventfd2"},
		{"swtpm_setup", []string{"--tpm2", "--tpmstate", dir}, "epoll_create1 epoll_pwait eventfd2 getrandom"},
		{"swtpm_ioctl", []string{"--unix", filepath.Join(dir, "c"), "-c"}, "epoll_create1 epoll_ctl eventfd2"},
		{"swtpm_cert", []string{"--help"}, "getrandom"},
	} {
		for call := range strings.FieldsSeq(c.calls) {
			cmd := exec.Command(strace, append([]string{"-f", "-qq", "-o", os.DevNull, "-e", "trace=" + call, "-e", "inject=" + call + ":error=EPERM", ours(c.program)}, c.args...)...)
			code, _, stderr := runCmd(t, cmd)
			want := fmt.Sprintf("the system call %s is refused: ", call)
			if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, want) || !strings.Contains(stderr, "SystemCallFilter=") {
				t.Errorf("%s %s without %s: exit code %d, %q; want 1 and one line with %q", c.program, c.args, call, code, stderr, want)
			}
		}
	}
}

// TestRefusedThread checks that each program reports a thread that a filter refuses, as old filters of containers refuse clone3.
func TestRefusedThread(t *testing.T) {
	t.Parallel()
	strace := harness.Need(t, "strace", "strace")
	for _, words := range []string{"swtpm socket -p 0", "swtpm state inspect x", "swtpm list", "swtpm_setup --version", "swtpm_ioctl --version", "swtpm_bios --version",
		"swtpm_cert --version", "swtpm_localca --version", "swtpm-store --version"} {
		line := strings.Fields(words)
		cmd := exec.Command(strace, append([]string{"-f", "-qq", "-o", os.DevNull, "-e", "trace=clone3", "-e", "inject=clone3:error=EPERM", ours(line[0])}, line[1:]...)...)
		code, _, stderr := runCmd(t, cmd)
		if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, ": create a thread: Operation not permitted; allow clone and clone3 in the filter") {
			t.Errorf("%s: exit code %d, %q; want 1 and one line", words, code, stderr)
		}
	}
}

// TestUsedDescriptors checks that one line names the limit if inherited descriptors leave too few, however many are left.
func TestUsedDescriptors(t *testing.T) {
	t.Parallel()
	for free := 2; free < 24; free++ {
		script := "ulimit -n 64; i=3; while [ $i -lt " + fmt.Sprint(64-free) + " ]; do eval \"exec $i</dev/null\"; i=$((i+1)); done; exec \"$0\" \"$@\""
		for _, more := range [][]string{{}, {"-d"}} {
			code, _, stderr := runCmd(t, exec.Command("bash", append([]string{"-c", script, ours("swtpm"), "socket", "-p", "0"}, more...)...))
			if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "RLIMIT_NOFILE is 64 descriptors, ") {
				t.Errorf("%d descriptors are free, %q: exit code %d, %q; want 1 and one line about RLIMIT_NOFILE", free, more, code, stderr)
			}
		}
	}
}
