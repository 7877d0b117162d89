package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
)

// newProfiled is a kept TPM of a profile, which is on from its start; more is appended
// to the profile.
func newProfiled(t *testing.T, more string) (k *resumableTPM, profile, good string) {
	t.Helper()
	dir := harness.TempDir(t)
	mkdir(t, filepath.Join(dir, "state"))
	profile = filepath.Join(dir, "vm.toml")
	good = "[tpmstate]\ndir = \"state\"\n[control]\nlisten = \"unix:c\"\n[interface]\nserver = \"unix:d\"\n[flags]\nstartup = \"clear\"\n" + more
	write(t, profile, []byte(good))
	k = &resumableTPM{manager: newManager(t, "run", profile), dir: dir, v: v20}
	k.start(t)
	c, err := ctrl.Dial(t.Context(), "unix", filepath.Join(dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = harness.EventTimeout
	t.Cleanup(func() { _ = c.Close() })
	k.ctrl, k.data = c, k.dial(t)
	return k, profile, good
}

// TestRestartBadProfile checks that a mistake in the profile costs no guest its TPM: the process
// uses the profile of the previous process, and reports that until the mistake is corrected.
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
		{"wrong key", "; leave out [key], or encrypt the state", func(s string) string {
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

// TestRestartChangedProfile checks that a changed profile is not rejected because of a held lock:
// the next start tries it again.
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

// TestRestartBadProfileAfterUpgrade checks that a process ends, and is started again until the
// profile is corrected, if the previous version of the program has saved no profile.
func TestRestartBadProfileAfterUpgrade(t *testing.T) {
	t.Parallel()
	k, profile, good := newProfiled(t, "")
	check := k.fill(t)
	k.end(t)
	const area = 20480 // handover/profile.go
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

// TestStartBadProfile checks that a mistake ends the service for good if there is no saved
// session.
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

// TestRestartRefused checks that a limit or a filter from outside, with which the Go runtime cannot start, costs no guest
// its TPM: systemd starts the service again.
func TestRestartRefused(t *testing.T) {
	t.Parallel()
	strace := harness.Need(t, "strace", "strace")
	for said, wrap := range map[string][]string{
		"RLIMIT_NOFILE is 31 descriptors": {"prlimit", "--nofile=31"},
		"the system call epoll_create1":   {strace, "-D", "-f", "-qq", "-o", os.DevNull, "-e", "inject=epoll_create1:error=EPERM"},
		"create a thread: ":               {strace, "-D", "-f", "-qq", "-o", os.DevNull, "-e", "inject=clone3:error=EPERM"},
	} {
		k, _, _ := newProfiled(t, "")
		check := k.fill(t)
		k.end(t)
		before := k.wrap
		k.wrap = append(k.wrap[:len(k.wrap):len(k.wrap)], wrap...)
		k.fails(t, said)
		k.wrap = before
		k.start(t)
		check()
	}
}
