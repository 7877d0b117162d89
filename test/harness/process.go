package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a program that runs during a test.
type Process struct {
	Cmd  *exec.Cmd
	Out  Buffer        // stdout and stderr, unless Cmd had its own
	Done chan struct{} // closed when the program has ended
}

// Buffer is a bytes.Buffer that may be read while it is written.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns all that was written.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Start starts cmd and kills it at the end of the test.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	return StartWith(t, cmd, func(int) error { return nil })
}

// StartWith is Start; it calls prepare before anything waits for the process, as a tracer
// must.
func StartWith(t testing.TB, cmd *exec.Cmd, prepare func(pid int) error) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, Done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.Out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.Out
	}
	cmd.WaitDelay = 10 * time.Second // a child of the program may keep the pipes open
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	err := prepare(cmd.Process.Pid)
	go func() { _ = cmd.Wait(); close(p.Done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.Done
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Wait waits for the end of the process and returns its exit code, -1 if a signal ended it.
func (p *Process) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.Done:
	case <-time.After(EventTimeout):
		t.Fatalf("%v does not end; output:\n%s", p.Cmd, p.Out.String())
	}
	return p.Cmd.ProcessState.ExitCode()
}

// Kill ends the process with SIGKILL.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	_ = p.Cmd.Process.Kill()
	p.Wait(t)
}

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.Done:
		return true
	default:
		return false
	}
}

// Freeze stops a process by SIGSTOP and returns when none of its threads runs. The signal alone takes effect
// later: a thread that waits for a processor may answer once more. A process that has ended is left alone.
func Freeze(pid int) error {
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return err
	}
	return Until(func() bool {
		stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, path := range stats {
			b, _ := os.ReadFile(path) // PID (NAME) STATE ...
			if at := bytes.LastIndexByte(b, ')'); at >= 0 && at+2 < len(b) && !bytes.ContainsRune([]byte("TtZX"), rune(b[at+2])) {
				return false
			}
		}
		return true
	})
}
