package systemd_test

import (
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

// spread returns the median, the 99th percentile and the maximum of times.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "no values"
	}
	slices.Sort(all)
	at := func(p int) time.Duration { return all[min(len(all)-1, len(all)*p/100)].Round(100 * time.Microsecond) }
	return fmt.Sprintf("median %v, p99 %v, max %v", at(50), at(99), at(100))
}

// processorTime returns the processor time that the container has used, without this test's
// process, which is in the same cgroup.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	_, group, _ := strings.Cut(strings.TrimSpace(string(own)), "::")
	group = strings.TrimPrefix(group[strings.LastIndex(group, "/swtpm-test-"):], "/")
	group, _, _ = strings.Cut(group, "/")
	stat, err := os.ReadFile(filepath.Join(cgroups, group, "cpu.stat"))
	if err != nil {
		t.Fatal(err)
	}
	var used time.Duration
	if _, err := fmt.Sscanf(string(stat), "usage_usec %d", &used); err != nil {
		t.Fatal(err)
	}
	var self unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &self); err != nil {
		t.Fatal(err)
	}
	return used*time.Microsecond - time.Duration(self.Utime.Nano()+self.Stime.Nano())
}
