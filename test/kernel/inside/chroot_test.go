package inside_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// jail makes a root directory in which user 65534 has a directory for a TPM, state.
func jail(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(state, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return dir
}

// inJail wants a process to have dir as its root directory, and the state there.
func inJail(t *testing.T, pid int, dir string) {
	t.Helper()
	powerlessUser(t, pid)
	root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil || root != dir {
		t.Errorf("the root directory is %q, %v; want %q", root, err, dir)
	}
	if !exists(filepath.Join(dir, "state/tpm2-00.permall")) {
		t.Error("the state is not there")
	}
}

// TestCUSEChroot checks that the device is created from outside, and that everything else is in
// the new root directory.
func TestCUSEChroot(t *testing.T) {
	dir := jail(t)
	run(t, "swtpm", "cuse", "-n", "vtpmjail", "--tpm2", "--chroot", dir, "--runas", fmt.Sprint(nobody), "--tpmstate", "dir=/state",
		"--pid", "file=/state/pid", "--log", "file=/state/log", "--flags", "not-need-init,startup-clear")
	d := &cuseDevice{path: "/dev/vtpmjail"}
	pid := filepath.Join(dir, "state/pid")
	until(t, "the pid file", func() bool { b, err := os.ReadFile(pid); return err == nil && len(b) > 0 })
	b, err := os.ReadFile(pid)
	if err == nil {
		_, err = fmt.Sscan(string(b), &d.pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(d.pid, unix.SIGKILL) })
	inJail(t, d.pid, dir)
	fd := open(t, d.path)
	succeed(t, fd, random20)
	_ = unix.Close(fd)
	d.ctl(t, "", "-s")
	d.ended(t)
	if exists(pid) {
		t.Error("the pid file is left over")
	}
}

// TestProxyChroot checks that a device of the vTPM proxy is created from outside of the new root
// directory.
func TestProxyChroot(t *testing.T) {
	dir := jail(t)
	p := startProxy(t, "/state", "--tpm2", "--chroot", dir, "--log", "file=/state/log")
	inJail(t, p.cmd.Process.Pid, dir)
	succeed(t, open(t, p.path()), random20)
	p.end(t, unix.SIGTERM, 0)
	until(t, "the end of the device", func() bool { return !exists(p.path()) })
}
