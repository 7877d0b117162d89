package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// replaceDir replaces a directory by another one with the same content.
func replaceDir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(dir+".old")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir + ".old"); err != nil {
		t.Fatal(err)
	}
}

// mountOver does the same by mounting a file system.
func mountOver(t *testing.T, dir string) {
	t.Helper()
	needRoot(t, "it mounts a file system")
	old := dir + ".old"
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs root with the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.CopyFS(dir, os.DirFS(old)); err != nil {
		t.Fatal(err)
	}
}

// TestReplacedState checks that INIT opens another directory in the place of the state directory
// if it is libvirt's, where each guest has a parent directory of its own.
func TestReplacedState(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func(*testing.T, string){"replaced": replaceDir, "mounted": mountOver} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			state := filepath.Join(harness.TempDir(t), "0a1b2c3d-0000-4000-8000-aAbBcCdDeEfF", "tpm2")
			if err := os.MkdirAll(state, 0o700); err != nil {
				t.Fatal(err)
			}
			e := start(t, setup{tpm: v20, state: state})
			e.power(t, v20).define(t)
			f(t, state)
			c := e.power(t, v20)
			if err := c.bump(2); err != nil {
				t.Fatal(err)
			}
			e.Kill(t)
			e = start(t, setup{tpm: v20, state: state})
			if n := e.power(t, v20).number(t); n != 2 {
				t.Errorf("the number in the new directory is %d, want 2", n)
			}
			e.Kill(t)
		})
	}
}

// TestReplacedStateElsewhere checks that INIT fails and names the remedy elsewhere, because the
// parent directory may have the states of other guests.
func TestReplacedStateElsewhere(t *testing.T) {
	t.Parallel()
	state := filepath.Join(harness.TempDir(t), "state")
	mkdir(t, state)
	e := start(t, setup{tpm: v20, state: state})
	e.power(t, v20).define(t)
	replaceDir(t, state)
	ctrl := e.control(t)
	for range 2 {
		if err := ctrl.Init(0); tpm.ResultOf(err) != tpm.Fail {
			t.Fatalf("INIT: %v; want %v: Landlock has no rule for it", err, tpm.Fail)
		}
	}
	if log := harness.Read(t, e.log); !strings.Contains(log, "was replaced after the start of this process") ||
		!strings.Contains(log, "start this process again") {
		t.Errorf("the log says %s", log)
	}
	e.Kill(t)
	e = start(t, setup{tpm: v20, state: state})
	if n := e.power(t, v20).number(t); n != 1 {
		t.Errorf("the number is %d, want 1", n)
	}
	e.Kill(t)
}

// TestReplacedStateOfService checks that a service ends, and that its next process opens the new
// directory and answers the INIT, so that a guest that resets notices nothing.
func TestReplacedStateOfService(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		for name, f := range map[string]func(*testing.T, string){"replaced": replaceDir, "mounted": mountOver} {
			t.Run(name+" "+string(v), func(t *testing.T) {
				t.Parallel()
				k := newResumable(t, v, false)
				k.data.define(t)
				f(t, filepath.Join(k.dir, "state"))
				first, code := k.Process, 0
				back := make(chan bool)
				go func() {
					defer close(back)
					<-first.Done
					code = first.Cmd.ProcessState.ExitCode()
					k.start(t)
				}()
				if err := k.ctrl.Init(0); err != nil {
					t.Errorf("INIT: %v; it said %s", err, k.Out.String())
				}
				<-back
				if code != exitRetry {
					t.Errorf("exit code %d, want %d", code, exitRetry)
				}
				k.data.ok(t, k.data.startup())
				if n := k.data.number(t); n != 1 {
					t.Errorf("the number is %d, want 1", n)
				}
				if err := k.data.bump(2); err != nil {
					t.Error(err)
				}
				if err := k.ctrl.Init(0); err != nil { // an ordinary one
					t.Error(err)
				}
				if strings.Contains(first.Out.String(), "INIT failed") {
					t.Errorf("it said %s", first.Out.String())
				}
			})
		}
	}
}
