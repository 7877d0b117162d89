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
)

// mustCount are the system calls of a store whose failure must be reported to the guest. If
// another call fails, such as a stat, the new state is on disk all the same.
var mustCount = []string{"openat", "write", "fsync", "close", "renameat", "renameat2", "pread64", "pwrite64", "fdatasync", "lseek"}

// faults are the faults of a system call of a store: it fails once, it and all later ones fail,
// or the process is killed in it. The errors are of a disk, of NFS, and of a file system that was
// mounted read-only.
var faults = []fault{{"EIO", false}, {"EIO", true}, {"ESTALE", true}, {"EROFS", true}, {"EACCES", true}, {"", false}}

// fault is one of them; no error stands for SIGKILL.
type fault struct {
	errno string
	lasts bool // until strace ends
}

// inject is the fault for strace, at the system call c.
func (f fault) inject(c call) string {
	when := fmt.Sprint(c.n)
	if f.lasts {
		when += "+"
	}
	if f.errno == "" {
		return fmt.Sprintf("inject=%s:signal=KILL:when=%s", c.name, when)
	}
	return fmt.Sprintf("inject=%s:error=%s:when=%s", c.name, f.errno, when)
}

// TestStoreFaults makes each system call of a store fail, and ends the process at each. It checks
// that a store that fails for good is never acknowledged, and that the old or the new state starts
// afterwards: the new one if it was acknowledged. After an error the TPM continues with the number
// that is on disk; only the command fails.
func TestStoreFaults(t *testing.T) {
	needRoot(t, "the emulator lets nobody else trace it")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, k := range everyKeeping(t) {
		for _, v := range both {
			if !v.runs(k == inDir || k.host != nil) {
				continue
			}
			t.Run(fmt.Sprint(k, " ", v), func(t *testing.T) {
				t.Parallel()
				if k.host != nil {
					linkFaultsOf(t, k, v)
					return
				}
				storeFaults(t, k, v)
			})
		}
	}
}

func storeFaults(t *testing.T, k keeping, v version) {
	seed := k.makeState(t, v)
	calls := storeCalls(t, k, v, seed)
	must := []string{"openat", "write", "fsync"}
	if k == inFile {
		must = []string{"pread64", "pwrite64", "fdatasync"}
	}
	for _, name := range must {
		if !slices.ContainsFunc(calls, func(c call) bool { return c.name == name }) {
			t.Fatalf("strace has seen no %s in a store, only %v", name, calls)
		}
	}
	for _, c := range calls {
		for i, f := range faults {
			if !v.runs(f == fault{"EIO", true}) { // what the TPM does then is up to its version
				continue
			}
			if i > 1 && f.lasts && os.Getenv(fullVar) == "" && (c.n > 1 || c.name != "openat" && c.name != "pwrite64") {
				continue // one errno is enough for most calls
			}
			t.Run(fmt.Sprintf("%s %d %v", c.name, c.n, f), func(t *testing.T) {
				storeFault(t, k, v, seed, c, f)
			})
		}
	}
}

// call is the n-th system call of a name, from 1, among those of one store.
type call struct {
	name string
	n    int
}

// storeCalls returns the system calls on state files of one bump.
func storeCalls(t *testing.T, k keeping, v version, seed []byte) []call {
	t.Helper()
	e, state := withState(t, k, v, seed)
	ch := e.power(t, v)
	k.awaitBoot(t, v, state)
	s := attach(t, e, k, state, v)
	if err := ch.bump(2); err != nil {
		t.Fatal(err)
	}
	s.detach(t)
	return engineCalls(harness.Read(t, s.file))
}

// engineCalls returns the system calls of the thread that stores, in the output of strace -f. Only
// its calls are the same in each run, and strace counts the calls of each thread.
func engineCalls(trace string) []call {
	calls, engine := map[string][]call{}, ""
	seen := map[string]int{}
	for line := range strings.Lines(trace) {
		thread, name, ok := callName(line)
		if !ok {
			continue
		}
		seen[thread+name]++
		calls[thread] = append(calls[thread], call{name, seen[thread+name]})
		if slices.Contains([]string{"fsync", "fdatasync"}, name) {
			engine = thread
		}
	}
	return calls[engine]
}

// callName returns the thread and the name of the system call that begins in a line of strace:
// "PID name(…".
func callName(line string) (thread, name string, ok bool) {
	thread, rest, ok := strings.Cut(line, " ")
	if !ok {
		return "", "", false
	}
	name, _, ok = strings.Cut(strings.TrimSpace(rest), "(")
	return thread, name, ok && !strings.ContainsAny(name, " <+-")
}

func storeFault(t *testing.T, k keeping, v version, seed []byte, c call, f fault) {
	action := "kill"
	if f.errno != "" {
		action = "log" // strace puts call -1 in the place of the one that is to fail
	}
	e, state := withState(t, k, v, seed, "--seccomp", "action="+action)
	ch := e.power(t, v)
	k.awaitBoot(t, v, state)
	s := attach(t, e, k, state, v, "-e", f.inject(c))
	err := ch.bump(2)
	if f.errno == "" {
		e.Wait(t)
		s.Wait(t) // it hangs if it is to detach from what is dying
	} else {
		s.detach(t)
	}
	if log := harness.Read(t, s.file); !strings.Contains(log, "INJECTED") && !strings.Contains(log, "killed by SIGKILL") {
		t.Fatalf("the fault was not injected:\n%s", log)
	}
	if f.errno != "" {
		storeWentOn(t, e, ch, c, f, err)
	}
	e.Kill(t)

	next := start(t, k.at(v, state))
	got := next.power(t, v).number(t)
	if got != 2 && (got != 1 || err == nil) {
		t.Errorf("the number is %d; it was 1, and 2 was sent with the answer %v", got, err)
	}
	next.Kill(t)
}

// storeWentOn checks a TPM after the fault f; err is the result of the command that stored.
func storeWentOn(t *testing.T, e *emulator, ch *channel, c call, f fault, err error) {
	t.Helper()
	must := slices.Contains(mustCount, c.name)
	if err == nil && f.lasts && must {
		t.Error("a failed store was acknowledged")
	}
	if err != nil && !f.lasts {
		t.Errorf("one fault, and the next try could succeed: %v", err)
	}
	if (err != nil || must) && harness.Read(t, e.log) == "" {
		t.Error("the log has no line about the fault")
	}
	ch.alive(t)
	want := uint64(2)
	if err != nil {
		want = 1
	}
	if got := ch.number(t); got != want && (err == nil || got != 2) { // 2: all but the last sync
		t.Errorf("the number is %d after the answer %v, want %d", got, err, want)
	}
}

// withState starts an emulator on a copy of the state seed.
func withState(t *testing.T, k keeping, v version, seed []byte, args ...string) (e *emulator, state string) {
	t.Helper()
	state = k.place(t)
	k.write(t, v, state, seed)
	return start(t, k.at(v, state, args...)), state
}

// tracer is strace attached to an emulator.
type tracer struct {
	*harness.Process
	file string // its output
}

// attach traces what e does to the state directory and the permanent state in
// it. The first -P of strace matches calls that name things in the directory.
func attach(t *testing.T, e *emulator, k keeping, state string, v version, args ...string) *tracer {
	t.Helper()
	temp := "TMP" + strings.TrimPrefix(v.file(), "tpm")
	return attachTo(t, e, append([]string{
		"-P", state, "-P", k.file(v, state), "-P", filepath.Join(state, temp),
	}, args...))
}

func attachTo(t *testing.T, e *emulator, args []string) *tracer {
	t.Helper()
	s := &tracer{file: filepath.Join(harness.TempDir(t), "strace")}
	args = append([]string{"-f", "-o", s.file, "-p", fmt.Sprint(e.Cmd.Process.Pid)}, args...)
	s.Process = harness.Start(t, exec.Command(harness.Need(t, "strace", "strace"), args...))
	if err := harness.Until(func() bool { return s.Ended() || strings.Contains(s.Out.String(), " attached") }); err != nil || s.Ended() {
		t.Fatalf("strace: %s", s.Out.String())
	}
	return s
}

// detach ends strace; the traced process continues.
func (s *tracer) detach(t *testing.T) {
	t.Helper()
	_ = s.Cmd.Process.Signal(unix.SIGINT)
	s.Wait(t)
}
