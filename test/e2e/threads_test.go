package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// threads returns the threads of a process.
func threads(t testing.TB, pid int) (ids []int) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// mostThreads is the number of threads that a TPM may have, whatever its clients do. One more exists
// for some seconds when files are written that no client waits for.
const mostThreads = 5

// fewThreads checks that a TPM has at most most threads, and only those of before, if that is not nil: others
// end by themselves. It returns them.
func fewThreads(t testing.TB, pid, most int, before []int) (now []int) {
	t.Helper()
	few := func() bool {
		now = threads(t, pid)
		return len(now) <= most && (before == nil || !slices.ContainsFunc(now, func(id int) bool { return !slices.Contains(before, id) }))
	}
	if err := harness.Until(few); err != nil {
		t.Errorf("threads %v, want at most %d, and of %v", now, most, before)
	}
	return now
}

// TestThreads checks that a TPM has few threads, and that none is created once clients are
// served: for many clients, stores and state blobs. TestThreadLimit checks the same with a limit
// that allows no further thread.
func TestThreads(t *testing.T) {
	t.Parallel()
	for _, v := range []version{v12, v20} {
		e := start(t, setup{tpm: v})
		pid := e.Cmd.Process.Pid
		c := e.power(t, v)
		before := fewThreads(t, pid, mostThreads, nil)
		burst(t, e, c)
		fewThreads(t, pid, mostThreads, before)
	}
}

// burst has clients of both channels, commands, stores and state blobs.
func burst(t *testing.T, e *emulator, c *channel) {
	t.Helper()
	c.define(t)
	for n := range 48 {
		dial(t, e.data)
		dial(t, e.ctrl)
		if n%4 == 0 {
			o := e.open(t, c.v)
			o.alive(t)
			if err := o.bump(uint64(n + 2)); err != nil {
				t.Fatal(err)
			}
		}
		x := e.control(t)
		if _, err := x.Capability(); err != nil {
			t.Fatal(err)
		}
		if err := x.StoreVolatile(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := x.State(tpm.Permanent, true); err != nil {
			t.Fatal(err)
		}
	}
}

// startThreads is the number of threads that a start may need for a moment.
const startThreads = 8

// TestThreadLimit checks that a start with too few threads ends with one line, and that a TPM
// whose threads exist survives a limit that allows only one more, because that may be reached at
// any time. On a busy machine the runtime creates one while an idle one is on its way to sleep, and ends
// it again.
func TestThreadLimit(t *testing.T) {
	needRoot(t, "a user of its own, whose threads are counted")
	for _, g := range []struct {
		limit int
		runs  bool
	}{{3, false}, {startThreads, true}} {
		uid := 1<<20 + os.Getpid() // another run of this test has processes of another user
		user := strconv.Itoa(uid)
		dir := harness.TempDir(t)
		state := filepath.Join(dir, "state")
		mkdir(t, state)
		for _, p := range []string{dir, state} {
			if err := os.Chown(p, uid, uid); err != nil {
				t.Fatal(err)
			}
		}
		ctrl := filepath.Join(dir, "c")
		p := harness.Start(t, exec.Command("prlimit", fmt.Sprintf("--nproc=%d", g.limit),
			"setpriv", "--reuid", user, "--regid", user, "--clear-groups",
			ours("swtpm"), "socket", "--tpm2", "--tpmstate", "dir="+state, "--ctrl", "type=unixio,path="+ctrl,
			"--server", "type=unixio,path="+filepath.Join(dir, "d"), "--flags", "startup-clear"))
		if !g.runs {
			if code := p.Wait(t); code != 1 || strings.Count(p.Out.String(), "\n") != 1 || !strings.Contains(p.Out.String(), "create a thread: ") {
				t.Errorf("limit %d: exit code %d, %q; want 1 and one line", g.limit, code, p.Out.String())
			}
			continue
		}
		e := &emulator{Process: p, dir: dir, data: filepath.Join(dir, "d"), ctrl: ctrl}
		e.await(t, e.data)
		c := e.open(t, v20)
		c.alive(t)
		for range startThreads - 1 - len(fewThreads(t, p.Cmd.Process.Pid, mostThreads, nil)) { // processes of the same user
			harness.Start(t, exec.Command("setpriv", "--reuid", user, "--regid", user, "--clear-groups", "sleep", "600"))
		}
		burst(t, e, c)
		if e.Ended() {
			t.Errorf("limit %d: the TPM has ended: %s", g.limit, p.Out.String())
		}
		if err := unix.Kill(p.Cmd.Process.Pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(t); code != 0 {
			t.Errorf("limit %d: exit code %d: %s", g.limit, code, p.Out.String())
		}
	}
}

// TestSmallLimits checks that one line names a resource limit that is too small.
func TestSmallLimits(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]string{
		"-v 600000": "RLIMIT_AS is 614400000 bytes, at least",
		"-d 60000":  "RLIMIT_DATA is 61440000 bytes, at least",
		"-n 10":     "RLIMIT_NOFILE is 10 descriptors, at least",
	} {
		dir := harness.TempDir(t)
		for _, word := range []string{"socket", "socket -d", "chardev", "run"} {
			cmd := exec.Command("sh", "-c", fmt.Sprintf(`ulimit %s; exec "$0" %s "$@"`, option, word), ours("swtpm"),
				"--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+filepath.Join(dir, "c"))
			code, _, stderr := runCmd(t, cmd)
			if code != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, want) {
				t.Errorf("%s %s: exit code %d, %q; want 1 and one line with %q", word, option, code, stderr, want)
			}
		}
	}
}
