package e2e_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// anonymousKiB is the memory of a process that is not mapped from a file.
func anonymousKiB(t testing.TB, pid int) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "Anonymous:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no anonymous memory")
	return 0
}

// flockOfClients connects 3,000 times, sends a command or a request with every third connection,
// and fetches 300 state blobs.
func flockOfClients(t *testing.T, e *emulator) {
	t.Helper()
	for n := range 3000 {
		switch {
		case n%6 == 0:
			o := e.open(t, v20)
			o.alive(t)
			_ = o.Close()
		case n%3 == 0:
			x := e.control(t)
			if _, err := x.Capability(); err != nil {
				t.Fatal(err)
			}
			_ = x.Close()
		case n%2 == 0:
			_ = dial(t, e.data).Close()
		default:
			_ = dial(t, e.ctrl).Close()
		}
	}
	for n := range 300 {
		x := e.control(t)
		if _, _, err := x.State([]tpm.Blob{tpm.Permanent, tpm.Volatile}[n%2], true); err != nil {
			t.Fatal(err)
		}
		_ = x.Close()
	}
}

// TestIdleMemory checks the memory that an idle TPM with an existing state has for itself: 1,510 kB here,
// and 230 kB more with the OpenSSL of Debian 13.
func TestIdleMemory(t *testing.T) {
	needRoot(t, "the emulator lets nobody else read its memory map")
	skipWithRace(t)
	t.Parallel()
	e := start(t, setup{tpm: v20, state: permanentVector(t)})
	e.power(t, v20).alive(t)
	const most = 1735
	n := anonymousKiB(t, e.Cmd.Process.Pid)
	t.Logf("%d kB", n)
	if n > most || n < 500 {
		t.Errorf("%d kB of anonymous memory, want at most %d", n, most)
	}
}

// TestMemoryAfterBurst checks that a burst of clients and state blobs does not raise the memory of
// a TPM permanently.
func TestMemoryAfterBurst(t *testing.T) {
	skipWithRace(t)
	t.Parallel()
	e := start(t, setup{tpm: v20})
	e.power(t, v20).alive(t)
	pid := e.Cmd.Process.Pid
	before := anonymousKiB(t, pid)
	flockOfClients(t, e)
	const most = 1800 // kB; some remains for the garbage collector's own data
	if err := harness.Until(func() bool { return anonymousKiB(t, pid)-before < most }); err != nil {
		t.Errorf("%d kB before, %d kB after a burst", before, anonymousKiB(t, pid))
	}
	settled := anonymousKiB(t, pid)
	flockOfClients(t, e)
	if err := harness.Until(func() bool { return anonymousKiB(t, pid)-settled < 300 }); err != nil {
		t.Errorf("%d kB after a burst, %d kB after another one", settled, anonymousKiB(t, pid))
	}
}

// TestMemoryLimit checks that the smallest memory limit of swtpm@.service(8) is enough for a burst
// of clients.
func TestMemoryLimit(t *testing.T) {
	needRoot(t, "a control group")
	skipWithRace(t)
	const limit = 12 << 20 // swtpm(8) says 16 MB
	group := memoryGroup(t, limit)
	e := start(t, setup{tpm: v20, wrap: []string{"sh", "-c", "echo $$ > " + filepath.Join(group, "cgroup.procs") + ` && exec "$@"`, "sh"}})
	c := e.power(t, v20)
	burst(t, e, c)
	flockOfClients(t, e)
	if e.Ended() {
		t.Errorf("the TPM has gone with %d bytes of memory", limit)
	}
	e.open(t, v20).alive(t)
}

// memoryGroup makes a control group with a limit of memory, and skips the test where that
// cannot be done.
func memoryGroup(t *testing.T, limit int) string {
	t.Helper()
	for _, g := range []struct{ root, file string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"},
	} {
		dir := filepath.Join(g.root, fmt.Sprintf("swtpm-test-%d", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = harness.Until(func() bool { return os.Remove(dir) == nil }) })
		if os.WriteFile(filepath.Join(dir, g.file), []byte(strconv.Itoa(limit)), 0o644) == nil {
			return dir
		}
	}
	t.Skip("no control group of memory can be made here")
	return ""
}

// skipWithRace skips a test of memory if the programs have the race detector, which
// takes memory itself.
func skipWithRace(t *testing.T) {
	t.Helper()
	if os.Getenv(raced) == "-race" {
		t.Skip("the race detector takes memory itself")
	}
}
