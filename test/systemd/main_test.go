// Package systemd_test runs the units as make install leaves them, with systemd as
// process 1 of a container of Debian's packages. The container has mount, process,
// network and cgroup namespaces of its own and writes to memory only: nothing of
// the machine changes. make systemd calls it, as root.
package systemd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	wantVar  = "SWTPM_SYSTEMD"       // the directory with image and install; set to run these tests at all
	innerVar = "SWTPM_SYSTEMD_INNER" // the work directory, inside the namespaces
	runVar   = "SWTPM_SYSTEMD_RUN"   // the one test to run, in a container without our files; else all others
)

// patience is how long a test waits for an expected event; no test measures time. long is how long it
// waits for what hundreds of TPMs do on a busy machine: a unit alone may need TimeoutStopSec=90.
const (
	patience = 2 * time.Minute
	long     = 4 * patience
)

// cgroups is where the container's view of cgroups is made.
const cgroups = "/sys/fs/cgroup"

// leader is the process 1 of the container, seen from here.
var leader int

func TestMain(m *testing.M) {
	dir := os.Getenv(innerVar)
	if dir == "" {
		os.Exit(m.Run())
	}
	stop, err := boot(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "systemd:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "systemd:", err)
		code = 1
	}
	os.Exit(code)
}

// TestSystemd runs all other tests of this package inside the namespaces.
func TestSystemd(t *testing.T) {
	switch {
	case os.Getenv(innerVar) != "":
		t.Skip("this is what runs the others")
	case os.Getenv(wantVar) == "":
		t.Skipf("$%s is not set: run make systemd", wantVar)
	case os.Geteuid() != 0:
		t.Fatal("needs root: namespaces and mounts")
	}
	if out, err := exec.Command("unshare", "--mount", "--pid", "--net", "--fork", "mount", "-t", "cgroup2", "none", cgroups).CombinedOutput(); err != nil {
		t.Skipf("no container can run here, this machine lets us make no namespaces with cgroups: %v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 32*time.Minute)
	defer cancel()
	// The shell is process 1: it reaps, and with it everything ends.
	inner := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "--kill-child",
		"sh", "-c", `"$@" & wait $!`, "sh", os.Args[0], "-test.v", "-test.timeout=30m", "-test.run="+os.Getenv(runVar))
	inner.Env = append(os.Environ(), innerVar+"="+t.TempDir())
	out, err := inner.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("%v\n%s", err, failed(string(out)))
	}
	if n := strings.Count(string(out), "\n--- PASS: "); err == nil && n < 5 && os.Getenv(runVar) == "" || n == 0 {
		t.Errorf("only %d tests ran", n)
	}
}

var failing = regexp.MustCompile(`--- FAIL: (\S+)`)

// failed is what the failing tests of a verbose run have printed. It is repeated at the end, where a
// reader of a long log looks.
func failed(out string) string {
	names := map[string]bool{}
	for _, found := range failing.FindAllStringSubmatch(out, -1) {
		names[found[1]] = true
	}
	var said strings.Builder
	for block := range strings.SplitSeq(out, "=== RUN   ") {
		name, _, _ := strings.Cut(block, "\n")
		if names[name] || failing.MatchString(block) || strings.Contains(block, "panic: ") {
			said.WriteString("=== RUN   " + block)
		}
	}
	return said.String()
}

// boot starts the container and returns when it is up; stop ends it.
func boot(dir string) (stop func() error, err error) {
	root := filepath.Join(dir, "root")
	built := os.Getenv(wantVar)
	if err := assemble(root, filepath.Join(dir, "memory"), filepath.Join(built, "install"), filepath.Join(built, "image", "root")); err != nil {
		return nil, err
	}
	group, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			removeCgroup(group) // it is the machine's, and would stay
		}
	}()
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil { // for nspawn's own files
		return nil, fmt.Errorf("mount /run: %w", err)
	}
	if machine, err = start(root); err != nil {
		return nil, err
	}
	return func() error {
		_, _ = in("systemctl", "poweroff")
		err := ended(machine)
		removeCgroup(group)
		return err
	}, nil
}

// machine is the container that runs.
var machine *exec.Cmd

// start has the container boot from its root directory, and returns when it is up.
func start(root string) (*exec.Cmd, error) {
	nspawn := exec.Command("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network",
		"--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
		"--console=pipe", "--machine=swtpm-test", "--directory="+root, "--boot")
	var said bytes.Buffer
	nspawn.Stdout, nspawn.Stderr = &said, &said
	nspawn.WaitDelay = time.Second // what it has started may keep the pipes
	if err := nspawn.Start(); err != nil {
		return nil, fmt.Errorf("%w; install the package systemd-container", err)
	}
	for end := time.Now().Add(long); ; time.Sleep(100 * time.Millisecond) {
		if leader = child(nspawn.Process.Pid); leader > 0 {
			out, _ := in("systemctl", "is-system-running")
			if s := strings.TrimSpace(out); s == "running" || s == "degraded" {
				return nspawn, nil
			}
		}
		if time.Now().After(end) {
			_ = nspawn.Process.Kill()
			_ = nspawn.Wait()
			return nil, fmt.Errorf("the container does not come up: %s", said.String())
		}
	}
}

// ended waits until a container has ended.
func ended(nspawn *exec.Cmd) error {
	late := time.AfterFunc(long, func() { _ = nspawn.Process.Kill() })
	err := nspawn.Wait()
	if !late.Stop() {
		err = errors.New("the container did not stop")
	}
	return err
}

// reboot boots the container anew, from the files that it has.
func reboot(t *testing.T) {
	t.Helper()
	root := strings.TrimPrefix(machine.Args[slices.IndexFunc(machine.Args, func(a string) bool { return strings.HasPrefix(a, "--directory=") })], "--directory=")
	_, _ = in("systemctl", "reboot") // its answer may not come any more
	// With --keep-unit, systemd-nspawn leaves the rest to its caller.
	if err := ended(machine); machine.ProcessState.ExitCode() != 133 {
		t.Fatalf("the container was to boot again, and ended: %v", err)
	}
	var err error
	if machine, err = start(root); err != nil {
		t.Fatal(err)
	}
}

// assemble mounts the layers, the first on top, at root; what is written goes to
// memory.
func assemble(root, memory string, layers ...string) error {
	upper, work := filepath.Join(memory, "upper"), filepath.Join(memory, "work")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(memory, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(layers, ":"), upper, work)
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay of %q: %w", layers, err)
	}
	return nil
}

// ownCgroup moves this process to a new cgroup, so that all that systemd makes is
// below it.
func ownCgroup() (string, error) {
	if err := unix.Mount("cgroup2", cgroups, "cgroup2", 0, ""); err != nil {
		return "", fmt.Errorf("mount cgroup2: %w", err)
	}
	group, err := os.MkdirTemp(cgroups, "swtpm-test-")
	if err != nil {
		return "", err
	}
	return group, os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0o600)
}

// removeCgroup leaves group and removes it with those below it.
func removeCgroup(group string) {
	_ = os.WriteFile(filepath.Join(cgroups, "cgroup.procs"), []byte("0"), 0o600)
	var all []string
	_ = filepath.WalkDir(group, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	for i := len(all) - 1; i >= 0; i-- {
		_ = unix.Rmdir(all[i])
	}
}

// child returns the one child of a process, 0 if it has none yet.
func child(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// in runs a command in the container and returns what it printed.
func in(args ...string) (string, error) { return inFor(patience, args...) }

// inFor is in for a command that may take longer.
func inFor(most time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	enter := []string{"--target=" + strconv.Itoa(leader), "--all", "--"}
	out, err := exec.CommandContext(ctx, "nsenter", append(enter, args...)...).CombinedOutput()
	return string(out), err
}
