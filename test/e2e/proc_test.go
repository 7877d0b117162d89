package e2e_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// cpuTicks returns the processor time that a process has used, in clock ticks.
//
// Source: proc(5), /proc/PID/stat, fields 14 and 15.
func cpuTicks(t testing.TB, pid int) int {
	t.Helper()
	stat := harness.Read(t, fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(stat, ") ") // field 3 follows
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
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
