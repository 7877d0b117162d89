package e2e_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// exitRetry is the exit code that systemd starts the service again after.
const exitRetry = 75

// fails checks that a start fails with exitRetry and does not change the memory.
func (k *resumableTPM) fails(t *testing.T, said string) {
	t.Helper()
	before := k.memory(t)
	if k.tryStart(t) {
		t.Fatalf("it is ready; it said %s", k.Out.String())
	}
	if code := k.Wait(t); code != exitRetry {
		t.Errorf("exit code %d, want %d; it said %s", code, exitRetry, k.Out.String())
	}
	if !bytes.Equal(before, k.memory(t)) {
		t.Error("the kept memory has changed")
	}
	if !strings.Contains(k.Out.String(), said) {
		t.Errorf("it said %q, want %q", k.Out.String(), said)
	}
	if n := strings.Count(besides(k.Out.String()), "\n"); n > 2 {
		t.Errorf("it said %d lines: %s", n, k.Out.String())
	}
}

// TestRestartSystemErrors checks that a start that cannot read or lock the state does not change
// the memory of the previous process and exits with the code after which systemd starts it again.
// When the state exists, the guest continues.
func TestRestartSystemErrors(t *testing.T) {
	needRoot(t, "strace injects errors")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, c := range []struct {
		name, said string
		harm       func(t *testing.T, k *resumableTPM, state string) (mend func())
	}{
		{"locked", "locked by another process", func(t *testing.T, k *resumableTPM, state string) func() {
			other := newManager(t, append([]string{"socket", "--tpmstate", "dir=" + state, "--flags", "not-need-init",
				"--server", "type=unixio,path=" + filepath.Join(k.dir, "other")}, k.v.options()...)...)
			other.env = nil
			other.start(t)
			return func() { _ = other.Cmd.Process.Kill(); other.Wait(t) } // it has changed nothing yet
		}},
		{"missing", "no such file or directory", func(t *testing.T, k *resumableTPM, state string) func() {
			return moved(t, state)
		}},
		{"unmounted", "permanent state missing; mount the file system", func(t *testing.T, k *resumableTPM, state string) func() {
			mend := moved(t, state)
			mkdir(t, state)
			return func() {
				if err := os.RemoveAll(state); err != nil {
					t.Fatal(err)
				}
				mend()
			}
		}},
		{"no directory", "not a directory", func(t *testing.T, k *resumableTPM, state string) func() {
			mend := moved(t, state)
			write(t, state, nil)
			return func() {
				if err := os.Remove(state); err != nil {
					t.Fatal(err)
				}
				mend()
			}
		}},
		{"open EIO", "input/output error", inject(strace, "openat:error=EIO")},
		{"open ENOMEM", "cannot allocate memory", inject(strace, "openat:error=ENOMEM")},
		{"open EACCES", "permission denied: TPM_RESULT 0x9 (TPM_FAIL); check the owner", inject(strace, "openat:error=EACCES")},
		{"read EIO", "input/output error", inject(strace, "read,pread64:error=EIO")},
		{"fsync EIO", "input/output error", inject(strace, "fsync:error=EIO")},
		{"stat ESTALE", "stale", inject(strace, "fstat,newfstatat:error=ESTALE")},
	} {
		for _, v := range both {
			if !v.runs(c.name == "unmounted" || c.name == "open EACCES") {
				continue
			}
			t.Run(c.name+" "+string(v), func(t *testing.T) { restartWithError(t, v, c.said, c.harm) })
		}
	}
}

// restartWithError restarts a TPM while an error prevents it, and after that.
func restartWithError(t *testing.T, v version, said string, harm func(t *testing.T, k *resumableTPM, state string) (mend func())) {
	t.Parallel()
	dir := harness.TempDir(t)
	mkdir(t, filepath.Join(dir, "state"))
	// strace replaces the call that must fail by call -1.
	k := newResumableIn(t, v, false, dir, "--seccomp", "action=log").power(t)
	k.data.define(t)
	check := k.fill(t)
	k.end(t)
	mend := harm(t, k, filepath.Join(k.dir, "state"))
	k.fails(t, said)
	mend()
	k.start(t)
	check()
	if n := k.data.number(t); n != 1 {
		t.Errorf("the number is %d, want 1", n)
	}
	if strings.Contains(k.Out.String(), "starting fresh") {
		t.Errorf("it said %s", k.Out.String())
	}
}

// moved moves a directory away until the end of the fault.
func moved(t *testing.T, dir string) (mend func()) {
	t.Helper()
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	rename(dir, dir+".away")
	return func() { t.Helper(); rename(dir+".away", dir) }
}

// TestRestartSystemErrorsInFile checks the same with the state in one file.
func TestRestartSystemErrorsInFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, said string
		harm       func(t *testing.T, file string) (mend func())
	}{
		{"locked", "locked by another process", func(t *testing.T, file string) func() {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			lock := unix.Flock_t{Type: unix.F_WRLCK}
			if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
				t.Fatal(err)
			}
			return func() { _ = f.Close() }
		}},
		{"missing", "permanent state missing; mount the file system", moved},
		{"no directory", "no such file or directory", func(t *testing.T, file string) func() { return moved(t, filepath.Dir(file)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := harness.TempDir(t)
			mkdir(t, filepath.Join(dir, "state"))
			file := filepath.Join(dir, "state", "file")
			k := newResumableIn(t, v20, false, dir, "--tpmstate", "backend-uri=file://"+file+",lock").power(t)
			k.data.define(t)
			check := k.fill(t)
			k.end(t)
			mend := c.harm(t, file)
			k.fails(t, c.said)
			mend()
			k.start(t)
			check()
			if n := k.data.number(t); n != 1 {
				t.Errorf("the number is %d, want 1", n)
			}
		})
	}
}

// inject makes the system calls on the state of the next process fail.
func inject(strace, fault string) func(t *testing.T, k *resumableTPM, state string) func() {
	return func(_ *testing.T, k *resumableTPM, state string) func() {
		k.trace = []string{strace, "-f", "-o", "/dev/null", "-P", state, "-P", filepath.Join(state, k.v.file()), "-e", "inject=" + fault}
		return func() { k.trace = nil }
	}
}

// TestRestartDamagedState checks that a damaged state is not such an error: it is reported as
// without a previous process.
func TestRestartDamagedState(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			k := newResumable(t, v, false)
			k.end(t)
			file := filepath.Join(k.dir, "state", v.file())
			bad := []byte(harness.Read(t, file))
			bad[len(bad)/2] ^= 1
			write(t, file, bad)
			k.start(t)
			k.says(t, "starting fresh")
			if err := k.ctrl.Init(0); err == nil {
				t.Error("INIT with a damaged state succeeds")
			}
		})
	}
}

// TestRestartDamagedStateAtStart checks that a damaged state of a TPM that is powered on at the
// start ends the service: its clients are disconnected.
func TestRestartDamagedStateAtStart(t *testing.T) {
	t.Parallel()
	k, _, _ := newProfiled(t, "")
	k.end(t)
	file := filepath.Join(k.dir, "state", v20.file())
	bad := []byte(harness.Read(t, file))
	bad[len(bad)/2] ^= 1
	write(t, file, bad)
	if k.tryStart(t) {
		t.Fatalf("it is ready; it said %s", k.Out.String())
	}
	if code := k.Wait(t); code != 1 {
		t.Errorf("exit code %d, want 1; it said %s", code, k.Out.String())
	}
	k.says(t, "starting fresh")
	k.says(t, "INIT failed")
}

// TestStartLocked checks that a service that finds the lock held at its first start is started
// again, too.
func TestStartLocked(t *testing.T) {
	t.Parallel()
	k, profile, good := newProfiled(t, "")
	second := strings.ReplaceAll(good, "unix:", "unix:second-")
	other := strings.Replace(profile, "vm.toml", "other.toml", 1)
	write(t, other, []byte(second))
	m := newManager(t, "run", other)
	if m.tryStart(t) {
		t.Fatal("it is ready")
	}
	if code := m.Wait(t); code != exitRetry || !strings.Contains(m.Out.String(), "locked by another process") {
		t.Errorf("exit code %d, want %d; it said %s", code, exitRetry, m.Out.String())
	}
	k.end(t)
	m.start(t)
}

// TestTerminateWhileResuming checks that SIGTERM while the process waits for the state is an
// orderly end, after which the saved memory is unchanged.
func TestTerminateWhileResuming(t *testing.T) {
	t.Parallel()
	k := newResumable(t, v20, false)
	check := k.fill(t)
	k.end(t)
	mend := moved(t, filepath.Join(k.dir, "state"))
	before := k.memory(t)
	k.launch(t)
	harness.Await(t, "a second attempt", func() bool { return strings.Contains(k.Out.String(), "trying again") })
	_ = k.Cmd.Process.Signal(unix.SIGTERM)
	if k.Ready(k.Process) {
		t.Fatal("it is ready")
	}
	if code := k.Wait(t); code != 0 {
		t.Errorf("exit code %d, want 0; it said %s", code, k.Out.String())
	}
	if !bytes.Equal(before, k.memory(t)) {
		t.Error("the kept memory has changed")
	}
	mend()
	k.start(t)
	check()
}

// TestRestartKilledOften checks that processes that are killed while they resume do not count
// against the state, unless they were killed while the engine started.
func TestRestartKilledOften(t *testing.T) {
	needRoot(t, "strace kills it")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	k := newResumable(t, v20, false)
	check := k.fill(t)
	k.end(t)
	for range 7 {
		mend := inject(strace, "read:signal=KILL")(t, k, filepath.Join(k.dir, "state"))
		if k.tryStart(t) {
			t.Fatal("it was not killed")
		}
		mend()
	}
	k.start(t)
	check()
	if _, err := os.Stat(filepath.Join(k.dir, "d")); err != nil {
		t.Error(fmt.Errorf("the socket: %w", err.(*fs.PathError)))
	}
}

// TestTerminateDuringErrors checks that SIGTERM while the disk fails is an orderly end: exit code
// 0, so that RestartPreventExitStatus= of a unit does not apply, and the next process continues.
func TestTerminateDuringErrors(t *testing.T) {
	needRoot(t, "strace injects errors")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, v := range both {
		for i, fault := range []string{
			"openat,write,fsync,renameat,close,read,unlinkat:error=EIO",
			"openat:error=EIO", "write:error=EIO", "fsync:error=EIO", "renameat:error=EIO", "close:error=EIO",
			"flock:error=EIO", "fcntl:error=EIO", "read:error=EIO", "unlinkat:error=EIO", "fstat:error=EIO", "newfstatat:error=EIO",
			"openat,write:error=ESTALE", "fsync:error=EDQUOT",
		} {
			if !v.runs(i == 0) {
				continue
			}
			t.Run(string(v)+" "+fault, func(t *testing.T) {
				t.Parallel()
				dir := harness.TempDir(t)
				mkdir(t, filepath.Join(dir, "state"))
				k := newResumableIn(t, v, false, dir, "--seccomp", "action=log").power(t)
				k.data.define(t)
				check := k.fill(t)
				state := filepath.Join(dir, "state")
				s := attachTo(t, &emulator{Process: k.Process}, []string{"-P", state, "-P", filepath.Join(state, ".lock"),
					"-P", filepath.Join(state, v.file()), "-P", filepath.Join(state, "TMP"+strings.TrimPrefix(v.file(), "tpm")), "-e", "inject=" + fault})
				_ = k.Cmd.Process.Signal(unix.SIGTERM)
				code := k.Wait(t)
				s.Wait(t)
				if v == v20 && fault == "openat:error=EIO" && !strings.Contains(harness.Read(t, s.file), "INJECTED") { // a store fails
					t.Fatalf("the fault was not injected:\n%s", harness.Read(t, s.file))
				}
				t.Logf("%d faults", strings.Count(harness.Read(t, s.file), "INJECTED"))
				if code != 0 {
					t.Errorf("exit code %d, want 0; it said %s", code, k.Out.String())
				}
				k.start(t)
				check()
				if n := k.data.number(t); n != 1 {
					t.Errorf("the number is %d, want 1", n)
				}
				if err := k.data.bump(2); err != nil {
					t.Error(err)
				}
				if strings.Contains(k.Out.String(), "starting fresh") {
					t.Errorf("it said %s", k.Out.String())
				}
			})
		}
	}
}
