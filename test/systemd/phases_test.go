package systemd_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// phaseNames are systemd's times of a unit in the order of a restart: the stop begins, the
// old process ended, the start begins, the new process was forked, it reported READY=1.
var phaseNames = []string{"ActiveExitTimestampMonotonic", "InactiveEnterTimestampMonotonic", "InactiveExitTimestampMonotonic", "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic"}

// reportPhases logs how long the phases of the last restart of each unit took. Nothing is
// checked: the times depend on the machine.
func reportPhases(t *testing.T, pattern string) {
	t.Helper()
	out := must(t, "systemctl", "show", "--property="+strings.Join(phaseNames, ","), pattern)
	var phases [][]time.Duration // one per phase
	for block := range strings.SplitSeq(strings.TrimSpace(out), "\n\n") {
		at := map[string]int64{}
		for line := range strings.Lines(block) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			at[name], _ = strconv.ParseInt(value, 10, 64)
		}
		if phases == nil {
			phases = make([][]time.Duration, len(phaseNames))
		}
		for i := range phaseNames[1:] {
			phases[i] = append(phases[i], time.Duration(at[phaseNames[i+1]]-at[phaseNames[i]])*time.Microsecond)
		}
		last := len(phaseNames) - 1
		phases[last] = append(phases[last], time.Duration(at[phaseNames[last]]-at[phaseNames[0]])*time.Microsecond)
	}
	for i, name := range []string{"stop", "between", "fork", "fork to READY", "all"} {
		t.Logf("%-14s %s", name, spread(phases[i]))
	}
}

// margin is how much longer than wanted something may take. The wanted times hold for a
// machine that does nothing else.
const margin = 4

// withinBounds checks the time of an upgrade and the longest wait of a guest, if n is the
// number of TPMs for which they are wanted.
func withinBounds(t *testing.T, n int, upgrade, wait time.Duration) {
	t.Helper()
	if n >= manyTPMs && (upgrade > margin*time.Minute || wait > margin*500*time.Millisecond) {
		t.Errorf("%d TPMs were upgraded in %v, and a command waited for %v", n, upgrade, wait)
	}
}

// manyTPMs is the number of TPMs for which times are wanted.
const manyTPMs = 200

// listsQuickly lists n TPMs of which each runs, and reads their metrics.
func listsQuickly(t *testing.T, n int) {
	t.Helper()
	must(t, "systemctl", "start", "swtpm-metrics.socket")
	t.Cleanup(func() { _, _ = in("systemctl", "stop", "swtpm-metrics.socket", "swtpm-metrics.service") })
	for _, c := range []struct {
		what, each string // each is printed once for each TPM
		do         func() string
	}{
		{"the list", "\nupgrade", func() string { return must(t, "swtpm", "list", "upgrade*") }},
		{"the metrics", "\nswtpm_tpm_up{name=\"upgrade", func() string { return scrape(t) }},
	} {
		c.do() // starts the service, and reads the program from the disk
		time.Sleep(time.Second)
		begin, used := time.Now(), processorTime(t)
		out := c.do()
		took, now := time.Since(begin), processorTime(t)
		t.Logf("%s of %d TPMs: %v, and %v of processor time, of which process 1 %v", c.what, n, took.Round(time.Millisecond),
			(now.all - used.all).Round(time.Millisecond), (now.manager - used.manager).Round(time.Millisecond))
		if got := strings.Count(out, c.each); got != n {
			t.Errorf("%s has %d TPMs, want %d:\n%s", c.what, got, n, out)
		}
		if n >= manyTPMs && took > margin*time.Second {
			t.Errorf("%s took %v", c.what, took)
		}
	}
}

// scrape reads the metrics of the host.
func scrape(t *testing.T) string {
	t.Helper()
	return must(t, "bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/9857 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 && cat <&3`)
}

// awaitMetrics waits until the metrics of the host contain all that is wanted: a collection serves the
// requests of one second, and lacks what does not answer in time.
func awaitMetrics(t *testing.T, want ...string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		out := scrape(t)
		missing := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return strings.Contains(out, s) })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in\n%s", missing, out)
		}
	}
}

// spread returns the median, the 99th percentile and the maximum of times.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "no values"
	}
	slices.Sort(all)
	at := func(p int) time.Duration { return all[min(len(all)-1, len(all)*p/100)].Round(100 * time.Microsecond) }
	return fmt.Sprintf("median %v, p99 %v, max %v", at(50), at(99), at(100))
}

// processorTimes is what was used since the container booted: by all of it, by process 1,
// and by the commands that the test ran in it.
type processorTimes struct{ all, manager, commands time.Duration }

// processorTime returns the processor time of the container. The process of the test, which
// is in the same cgroup, does not count.
func processorTime(t *testing.T) (used processorTimes) {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	group := string(own[bytes.LastIndex(own, []byte("/swtpm-test-"))+1:])
	group, _, _ = strings.Cut(strings.TrimSpace(group), "/")
	stat, err := os.ReadFile(filepath.Join(cgroups, group, "cpu.stat"))
	if err != nil {
		t.Fatal(err)
	}
	var usage int64
	if _, err := fmt.Sscanf(string(stat), "usage_usec %d", &usage); err != nil {
		t.Fatal(err)
	}
	spent := func(who int) time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	used.all = time.Duration(usage)*time.Microsecond - spent(unix.RUSAGE_SELF)
	used.commands = spent(unix.RUSAGE_CHILDREN)
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", leader))
	_, _ = fmt.Sscan(string(b), (*int64)(&used.manager)) // nanoseconds
	return used
}

// perRestart returns the processor time of one of n restarts since begin.
func (used processorTimes) perRestart(begin processorTimes, n int) string {
	of := func(d time.Duration) time.Duration { return (d / time.Duration(n)).Round(100 * time.Microsecond) }
	return fmt.Sprintf("processor time per restart: %v, of which process 1 %v and swtpm upgrade %v",
		of(used.all-begin.all), of(used.manager-begin.manager), of(used.commands-begin.commands))
}
