package e2e_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

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

// mostThreads is the number of threads that a TPM may have, whatever its clients do.
const mostThreads = 6

// fewThreads waits until a TPM has no more threads than most, and none that is missing in before, unless that is
// nil. A thread that the runtime created in addition ends by itself. fewThreads returns the threads.
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

// newService returns a service that is not started, of a profile that also has the table, with a watchdog.
func newService(t *testing.T, table string) (*manager, *profiled) {
	t.Helper()
	p := unstarted(t, "file = \"log\"\n"+table)
	m := newManager(t, "run", p.profile)
	m.wrap = []string{"setsid"} // without the test's terminal
	m.env = append(m.env, "WATCHDOG_USEC=400000")
	return m, p
}

// TestThreadsService checks that a service has few threads, too, and that its descriptor store, its watchdog,
// its status, a reload and a client that reads the metrics create none. A collection of the
// heap, after a burst of clients or some writes of the metrics to a file, may create one; it ends.
func TestThreadsService(t *testing.T) {
	t.Parallel()
	for table, most := range map[string]int{
		"": mostThreads, "[metrics]\nlisten = \"unix:m\"\n": mostThreads, "[metrics]\nfile = \"m\"\ninterval = 1\n": mostThreads,
	} {
		m, p := newService(t, table)
		m.start(t)
		p.Process = m.Process
		pid := p.Cmd.Process.Pid
		c := p.open(t, v20)
		c.alive(t)
		before := fewThreads(t, pid, most, nil)
		p.open(t, v20).alive(t)
		p.reload(t)
		m.awaitMore(t, "RELOADING=1", 1)
		m.awaitMore(t, "READY=1", 2)
		m.awaitMore(t, "WATCHDOG=1", m.Count("WATCHDOG=1")+5)
		m.awaitMore(t, "STATUS=TPM 2.0 is on; data unix:"+p.data+", ", 2)
		if strings.Contains(table, "listen") {
			scrape(t, filepath.Join(p.dir, "m"))
		}
		if strings.Contains(table, "file") {
			before = nil
		}
		fewThreads(t, pid, most, before)
		burst(t, p.emulator, c)
		fewThreads(t, pid, most, nil)
		m.end(t)
	}
}

// awaitMore waits until text occurs n times in the messages to systemd.
func (m *manager) awaitMore(t *testing.T, text string, n int) {
	t.Helper()
	harness.Await(t, fmt.Sprintf("%d times %q from the service", n, text), func() bool { return m.Count(text) >= n })
}

// scrape reads the metrics while other clients say nothing.
func scrape(t *testing.T, path string) {
	t.Helper()
	for range 5 {
		dial(t, path)
	}
	conn := connect(t, path)
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(text), "# EOF\n") {
		t.Errorf("metrics: %q, %v", text, err)
	}
}

// TestNotifyFull checks that a service works while systemd does not read its messages, and that systemd
// gets the status, the reload and the notifications of the watchdog afterwards.
func TestNotifyFull(t *testing.T) {
	t.Parallel()
	m, p := newService(t, "")
	m.env = []string{"WATCHDOG_USEC=40000"} // and no descriptor store, which would have to wait
	m.start(t)
	p.Process = m.Process
	pid := p.Cmd.Process.Pid
	p.open(t, v20).alive(t)
	fed := m.Count("WATCHDOG=1")
	resume := sync.OnceFunc(m.Pause())
	defer resume()
	for begun := time.Now(); time.Since(begun) < 3*time.Second; {
		p.open(t, v20).alive(t)
		if _, err := p.control(t).Capability(); err != nil {
			t.Fatal(err)
		}
	}
	p.reload(t)
	burst(t, p.emulator, p.open(t, v20))
	resume()
	m.awaitMore(t, "RELOADING=1", 1)
	m.awaitMore(t, "READY=1", 2)
	m.awaitMore(t, "WATCHDOG=1", fed+20)
	fewThreads(t, pid, mostThreads, nil)
	m.end(t)
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
// whose threads exist survives a limit that allows no further one, because that may be reached at
// any time.
func TestThreadLimit(t *testing.T) {
	needRoot(t, "a user of its own, whose threads are counted")
	for _, g := range []struct {
		limit int
		runs  bool
	}{{3, false}, {startThreads, true}} {
		dir := harness.TempDir(t)
		state := filepath.Join(dir, "state")
		mkdir(t, state)
		user := ownUser(t, dir, state)
		ctrl := filepath.Join(dir, "c")
		line := append(limited(user, g.limit),
			ours("swtpm"), "socket", "--tpm2", "--tpmstate", "dir="+state, "--ctrl", "type=unixio,path="+ctrl,
			"--server", "type=unixio,path="+filepath.Join(dir, "d"), "--flags", "startup-clear")
		p := harness.Start(t, exec.Command(line[0], line[1:]...))
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
		reachLimit(t, user, p.Cmd.Process.Pid)
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

// ownUser returns a user that no other run of this test has, to which the paths belong from now on.
func ownUser(t *testing.T, paths ...string) (user string) {
	t.Helper()
	uid := 1<<20 + os.Getpid()
	for _, p := range paths {
		if err := os.Chown(p, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	return strconv.Itoa(uid)
}

// limited returns the words that start a program as a user that has at most limit threads.
func limited(user string, limit int) []string {
	return []string{"prlimit", fmt.Sprintf("--nproc=%d", limit), "setpriv", "--reuid", user, "--regid", user, "--clear-groups"}
}

// reachLimit starts processes of the user, so that the TPM pid can have no further thread.
func reachLimit(t *testing.T, user string, pid int) {
	t.Helper()
	for range startThreads - len(fewThreads(t, pid, mostThreads, nil)) {
		o := harness.Start(t, exec.Command("setpriv", "--reuid", user, "--regid", user, "--clear-groups", "sleep", "600"))
		harness.Await(t, "a process of the user", func() bool {
			return strings.TrimSpace(harness.Read(t, fmt.Sprintf("/proc/%d/comm", o.Cmd.Process.Pid))) == "sleep"
		})
	}
}

// TestThreadLimitService checks that a service whose user can have no further thread continues to notify
// systemd, to serve its metrics and to reload.
func TestThreadLimitService(t *testing.T) {
	needRoot(t, "a user of its own, whose threads are counted")
	m, p := newService(t, "[metrics]\nlisten = \"unix:m\"\n")
	user := ownUser(t, p.dir, filepath.Join(p.dir, "state"))
	m.Share(t)
	m.wrap = append(m.wrap, limited(user, startThreads)...)
	m.start(t)
	p.Process = m.Process
	c := p.open(t, v20)
	c.alive(t)
	reachLimit(t, user, p.Cmd.Process.Pid)
	p.reload(t)
	scrape(t, filepath.Join(p.dir, "m"))
	m.awaitMore(t, "WATCHDOG=1", m.Count("WATCHDOG=1")+5)
	m.awaitMore(t, "RELOADING=1", 1)
	m.awaitMore(t, "READY=1", 2)
	c.alive(t)
	m.end(t)
}

// TestSmallLimits checks that one line names a resource limit that is too small.
func TestSmallLimits(t *testing.T) {
	t.Parallel()
	for option, want := range map[string]string{
		"-v 600000": "RLIMIT_AS is 614400000 bytes, at least",
		"-d 60000":  "RLIMIT_DATA is 61440000 bytes, at least",
		"-n 31":     "RLIMIT_NOFILE is 31 descriptors, at least 32 are",
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

// TestFewDescriptors checks that a TPM with a helper for each purpose starts with the smallest number of descriptors
// that is accepted, and serves a client on each channel.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	p := unstarted(t, "file = \"log\"\n[metrics]\nlisten = \"unix:metrics\"\n[pcap]\nfile = \"pcap\"\n[ledger]\nkeep = \"boots\"\n")
	p.Process = harness.Start(t, exec.Command("sh", "-c", `ulimit -n 32; exec "$0" "$@"`, ours("swtpm"), "run", p.profile))
	p.await(t, p.data)
	c := p.open(t, v20)
	c.ok(t, random20)
	c.ok(t, define20)
	if code, out, stderr := runCmd(t, exec.Command(ours("swtpm-ioctl"), "--unix", p.ctrl, "-c")); code != 0 {
		t.Errorf("a control client: exit code %d: %s%s", code, out, stderr)
	}
	if said := harness.Read(t, p.log); strings.Contains(said, "too many open files") {
		t.Errorf("the log has\n%s", said)
	}
}
