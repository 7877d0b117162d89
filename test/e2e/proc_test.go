package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// cpuTime returns the processor time that the threads of a process have used, with the precision
// of the scheduler: a short command uses less than a clock tick.
//
// Source: Linux, Documentation/scheduler/sched-stats.rst, /proc/PID/schedstat.
func cpuTime(t testing.TB, pid int) (total time.Duration) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		ns, _, _ := strings.Cut(harness.Read(t, file), " ")
		n, _ := strconv.ParseInt(ns, 10, 64)
		total += time.Duration(n)
	}
	return total
}

// openFDs counts the open descriptors of a process.
func openFDs(t testing.TB, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// residentKiB returns the resident memory of a process in KiB.
func residentKiB(t testing.TB, pid int) int {
	t.Helper()
	_, rest, ok := strings.Cut(harness.Read(t, fmt.Sprintf("/proc/%d/status", pid)), "VmRSS:")
	if !ok {
		t.Fatal("no VmRSS")
	}
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
