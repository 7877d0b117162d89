package e2e_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
)

// exitRetry is the exit code that systemd starts the service again after.
const exitRetry = 75

// smallDisk returns a directory whose directory state is a small file system.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := harness.TempDir(t)
	state := filepath.Join(dir, "state")
	mkdir(t, state)
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("needs root with the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
	return dir
}

// fails wants a start to fail with exitRetry and to leave the memory alone.
func (k *keptTPM) fails(t *testing.T, said string) {
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
	if n := strings.Count(k.Out.String(), "\n"); n > 2 {
		t.Errorf("it said %d lines: %s", n, k.Out.String())
	}
}

// A restart on a full disk takes nothing from the guest: the TPM continues from before
// the TPM2_Shutdown that could not be stored. So does one after another full disk, and
// a crash.
func TestRestartFullDisk(t *testing.T) {
	needRoot(t, "it mounts a small tmpfs")
	t.Parallel()
	everyKept(t, func(t *testing.T, v version, key bool) {
		k := newKeptIn(t, v, key, smallDisk(t)).power(t)
		k.data.define(t)
		filler := filepath.Join(k.dir, "state", "filler")
		for i, next := range []func(){
			func() { k.restart(t) },
			func() { k.restart(t); k.restart(t) },
			func() { k.restart(t); k.crash(t, unix.SIGKILL) },
		} {
			check := k.fill(t)
			fill(t, filler)
			next()
			check()
			if n := k.data.number(t); n != uint64(i)+1 {
				t.Errorf("the number is %d, want %d", n, i+1)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			if err := k.data.bump(uint64(i) + 2); err != nil {
				t.Errorf("with room again: %v", err)
			}
		}
		if strings.Contains(k.Out.String(), "starting fresh") {
			t.Errorf("it said %s", k.Out.String())
		}
	})
}

// Nothing waits for a full disk at a power-off: a client that asks for one, or for the
// end of the process, has its reply, and the process ends.
func TestShutdownFullDisk(t *testing.T) {
	needRoot(t, "it mounts a small tmpfs")
	t.Parallel()
	for _, service := range []bool{false, true} {
		t.Run(fmt.Sprintf("service=%t", service), func(t *testing.T) {
			t.Parallel()
			k := newKeptIn(t, v20, false, smallDisk(t))
			if !service {
				k.end(t)
				k.Clear()
				k.env = nil
				k.start(t)
			}
			ctrl, err := ctrl.Dial(t.Context(), "unix", filepath.Join(k.dir, "c"))
			if err != nil {
				t.Fatal(err)
			}
			defer ctrl.Close()
			ctrl.Timeout = harness.Patience
			k.ctrl = ctrl
			k.power(t).data.define(t)
			fill(t, filepath.Join(k.dir, "state", "filler"))
			begun := time.Now()
			if err := ctrl.Shutdown(); err != nil {
				t.Errorf("SHUTDOWN: %v", err)
			}
			if code := k.Wait(t); code != 0 {
				t.Errorf("exit code %d; it said %s", code, k.Out.String())
			}
			t.Logf("the end took %v", time.Since(begun))
		})
	}
}

// A start that cannot read or lock the state for now leaves what the previous process
// has kept alone, byte by byte, and ends with the exit code after which systemd starts
// it again; once the state exists, the guest continues.
func TestRestartSystemErrors(t *testing.T) {
	needRoot(t, "strace injects errors")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, c := range []struct {
		name, said string
		harm       func(t *testing.T, k *keptTPM, state string) (mend func())
	}{
		{"locked", "locked by another process", func(t *testing.T, k *keptTPM, state string) func() {
			other := newManager(t, append([]string{"socket", "--tpmstate", "dir=" + state, "--flags", "not-need-init",
				"--server", "type=unixio,path=" + filepath.Join(k.dir, "other")}, k.v.options()...)...)
			other.env = nil
			other.start(t)
			return func() { _ = other.Cmd.Process.Kill(); other.Wait(t) } // it has changed nothing yet
		}},
		{"missing", "no such file or directory", func(t *testing.T, k *keptTPM, state string) func() {
			return moved(t, state)
		}},
		{"unmounted", "permanent state missing; mount the file system", func(t *testing.T, k *keptTPM, state string) func() {
			mend := moved(t, state)
			mkdir(t, state)
			return func() {
				if err := os.RemoveAll(state); err != nil {
					t.Fatal(err)
				}
				mend()
			}
		}},
		{"no directory", "not a directory", func(t *testing.T, k *keptTPM, state string) func() {
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
			t.Run(c.name+" "+string(v), func(t *testing.T) { restartWithError(t, v, c.said, c.harm) })
		}
	}
}

// restartWithError restarts a TPM while an error prevents it, and after that.
func restartWithError(t *testing.T, v version, said string, harm func(t *testing.T, k *keptTPM, state string) (mend func())) {
	t.Parallel()
	dir := harness.TempDir(t)
	mkdir(t, filepath.Join(dir, "state"))
	// strace puts call -1 in the place of the one that is to fail.
	k := newKeptIn(t, v, false, dir, "--seccomp", "action=log").power(t)
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

// The same with the state in one file.
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
			k := newKeptIn(t, v20, false, dir, "--tpmstate", "backend-uri=file://"+file+",lock").power(t)
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
func inject(strace, fault string) func(t *testing.T, k *keptTPM, state string) func() {
	return func(_ *testing.T, k *keptTPM, state string) func() {
		k.trace = []string{strace, "-f", "-o", "/dev/null", "-P", state, "-P", filepath.Join(state, k.v.file()), "-e", "inject=" + fault}
		return func() { k.trace = nil }
	}
}

// A state that is damaged is none of these: it is reported as ever.
func TestRestartDamagedState(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			k := newKept(t, v, false)
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

// A damaged state of a TPM that is powered on at the start ends the start for good: the
// clients learn that their TPM no longer exists.
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

// newProfiled is a kept TPM of a profile, which is on from its start; more is appended
// to the profile.
func newProfiled(t *testing.T, more string) (k *keptTPM, profile, good string) {
	t.Helper()
	dir := harness.TempDir(t)
	mkdir(t, filepath.Join(dir, "state"))
	profile = filepath.Join(dir, "vm.toml")
	good = "[tpmstate]\ndir = \"state\"\n[control]\nlisten = \"unix:c\"\n[interface]\nserver = \"unix:d\"\n[flags]\nstartup = \"clear\"\n" + more
	write(t, profile, []byte(good))
	k = &keptTPM{manager: newManager(t, "run", profile), dir: dir, v: v20}
	k.start(t)
	c, err := ctrl.Dial(t.Context(), "unix", filepath.Join(dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = harness.Patience
	t.Cleanup(func() { _ = c.Close() })
	k.ctrl, k.data = c, k.dial(t)
	return k, profile, good
}

// A mistake in the profile takes no TPM from a guest: the process runs with the profile
// of the previous one, and says so until the mistake is corrected.
func TestRestartBadProfile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, said string
		spoil      func(good string) string // "" removes the profile
		fails      bool                     // the start, before the next one takes the previous profile
	}{
		{"syntax", "vm.toml:2:7: expected value", func(s string) string { return strings.Replace(s, `"state"`, `state`, 1) }, false},
		{"unknown key", `unknown key; did you mean "listen"?`, func(s string) string { return strings.Replace(s, "listen", "lisen", 1) }, false},
		{"empty name", "no such file or directory", func(string) string { return "" }, false},
		{"log", "log: open", func(s string) string { return s + "[log]\nfile = \"none/log\"\n" }, true},
		{"user", "nobody-of-this-name", func(s string) string { return s + "[sandbox]\nuser = \"nobody-of-this-name\"\n" }, true},
		{"key file", "key file", func(s string) string { return s + "[key]\nfile = \"none.key\"\n" }, true},
		{"wrong key", "the container is not encrypted", func(s string) string {
			return s + "[key]\nfile = \"good.key\"\nformat = \"hex\"\nmode = \"aes-256-cbc\"\n"
		}, true},
		{"socket", "control channel: ", func(s string) string { return strings.Replace(s, "unix:c", "unix:none/c", 1) }, true},
		{"other state", "no such file or directory", func(s string) string { return strings.Replace(s, `"state"`, `"other"`, 1) }, true},
		{"empty state", "permanent state missing", func(s string) string { return strings.Replace(s, `"state"`, `"empty"`, 1) }, true},
		{"version", "other version", func(s string) string { return "tpm = \"1.2\"\n" + s }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k, profile, good := newProfiled(t, "")
			write(t, filepath.Join(k.dir, "good.key"), []byte(keyHex))
			mkdir(t, filepath.Join(k.dir, "empty"))
			k.data.define(t)
			check := k.fill(t)
			if bad := c.spoil(good); bad != "" {
				write(t, profile, []byte(bad))
			} else if err := os.Remove(profile); err != nil {
				t.Fatal(err)
			}
			k.end(t)
			if c.fails {
				if k.tryStart(t) {
					t.Fatalf("it is ready; it said %s", k.Out.String())
				}
				if code := k.Wait(t); code != exitRetry || !strings.Contains(k.Out.String(), c.said) {
					t.Errorf("exit code %d, want %d; it said %q, want %q", code, exitRetry, k.Out.String(), c.said)
				}
			}
			k.start(t)
			check()
			k.says(t, c.said)
			k.says(t, "running with the previous one until the profile is corrected and the service restarted")
			check = k.fill(t)
			write(t, profile, []byte(good+"[log]\nlevel = 2\n"))
			k.restart(t)
			check()
			if said := k.Out.String(); strings.Contains(said, "previous one") || strings.Contains(said, "starting fresh") {
				t.Errorf("after the correction it said %s", said)
			}
			if n := k.data.number(t); n != 1 {
				t.Errorf("the number is %d, want 1", n)
			}
		})
	}
}

// A profile that has changed is not blamed for a lock: the next start tries it again.
func TestRestartChangedProfile(t *testing.T) {
	t.Parallel()
	k, profile, good := newProfiled(t, "")
	check := k.fill(t)
	k.end(t)
	write(t, profile, []byte(good+"# changed\n"))
	dir, err := os.Open(filepath.Join(k.dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	k.fails(t, "locked by another process")
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	k.start(t)
	check()
	if said := k.Out.String(); strings.Contains(said, "previous one") {
		t.Errorf("it said %s", said)
	}
}

// A version of the program that saved no profile has left the TPM: the process ends,
// and is started again, until the profile is corrected.
func TestRestartBadProfileAfterUpgrade(t *testing.T) {
	t.Parallel()
	k, profile, good := newProfiled(t, "")
	check := k.fill(t)
	k.end(t)
	const area = 20480 // keep/profile.go
	if _, err := unix.Pwrite(k.FD("swtpm-state"), make([]byte, 1024), area); err != nil {
		t.Fatal(err)
	}
	write(t, profile, []byte(good+"[nothing]\n"))
	for range 2 {
		k.fails(t, "[nothing]: unknown table")
	}
	write(t, profile, []byte(good))
	k.start(t)
	check()
}

// Without a session there is nothing to lose, and a mistake is final.
func TestStartBadProfile(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	profile := filepath.Join(dir, "vm.toml")
	write(t, profile, []byte("[tpmstate]\ndir = state\n"))
	m := newManager(t, "run", profile)
	if m.tryStart(t) {
		t.Fatal("it is ready")
	}
	if code := m.Wait(t); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

// A service that finds the lock held at its first start is started again, too.
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

// SIGTERM while the process waits for the state is an orderly end that keeps all.
func TestTerminateWhileResuming(t *testing.T) {
	t.Parallel()
	k := newKept(t, v20, false)
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

// Processes that are killed while they resume do not count against the state, unless
// they were killed as the engine started.
func TestRestartKilledOften(t *testing.T) {
	needRoot(t, "strace kills it")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	k := newKept(t, v20, false)
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

// SIGTERM while the disk fails is an orderly end: exit code 0, so that a unit's
// RestartPreventExitStatus= does not apply, and the next process continues.
func TestTerminateDuringErrors(t *testing.T) {
	needRoot(t, "strace injects errors")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, v := range both {
		for _, fault := range []string{
			"openat:error=EIO", "write:error=EIO", "fsync:error=EIO", "renameat:error=EIO", "close:error=EIO",
			"flock:error=EIO", "fcntl:error=EIO", "read:error=EIO", "unlinkat:error=EIO", "fstat:error=EIO", "newfstatat:error=EIO",
			"openat,write,fsync,renameat,close,read,unlinkat:error=EIO", "openat,write:error=ESTALE", "fsync:error=EDQUOT",
		} {
			t.Run(string(v)+" "+fault, func(t *testing.T) {
				t.Parallel()
				dir := harness.TempDir(t)
				mkdir(t, filepath.Join(dir, "state"))
				k := newKeptIn(t, v, false, dir, "--seccomp", "action=log").power(t)
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
