package e2e_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// beginOfCall is the begin of a system call in the output of strace -f.
var beginOfCall = regexp.MustCompile(`(?m)^\d+ +(\w+)\(`)

// runtimeCalls are calls of the Go runtime and of malloc, whose number depends on time: a thread of C
// that calls Go, for example, makes some of them.
var runtimeCalls = []string{
	"brk", "clock_gettime", "epoll_pwait", "futex", "getpid", "gettid", "madvise", "mmap", "munmap", "nanosleep", "restart_syscall",
	"rt_sigprocmask", "rt_sigreturn", "sched_yield", "sigaltstack", "tgkill",
}

// TestStoreCalls checks the system calls of the whole process for a command that is
// durable when it is answered, an NV_Increment or an NV_WriteValue. One lseek publishes the
// number of commands.
func TestStoreCalls(t *testing.T) {
	needRoot(t, "the emulator lets nobody else trace it")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	const bumps = 20
	want := map[string]map[string]int{
		"dir":  {"poll": 1, "recvfrom": 1, "openat": 1, "write": 1, "fsync": 2, "fstat": 1, "close": 1, "renameat": 1, "lseek": 1, "sendto": 1},
		"file": {"poll": 1, "recvfrom": 1, "lseek": 1, "fstat": 1, "pread64": 1, "pwrite64": 2, "fdatasync": 2, "sendto": 1},
		// One request to the broker. The TPM waits for its reply and reads it in two parts.
		"store": {"poll": 1, "ppoll": 1, "recvfrom": 4, "sendmsg": 1, "lseek": 1, "sendto": 1},
	}
	for _, k := range everyKeeping(t) {
		for _, v := range both {
			t.Run(fmt.Sprint(k, " ", v), func(t *testing.T) {
				t.Parallel()
				e, place := withState(t, k, v, k.makeState(t, v))
				ch := e.power(t, v)
				k.awaitBoot(t, v, place)
				if err := ch.bump(2); err != nil { // it may set up something
					t.Fatal(err)
				}
				s := attachTo(t, e, []string{"-s", "0"})
				for n := range uint64(bumps) {
					if err := ch.bump(3 + n); err != nil {
						t.Fatal(err)
					}
				}
				s.detach(t)
				calls, slow := s.calls(t), strings.Count(harness.Read(t, e.log), "the disk is slow")
				for _, name := range slices.Sorted(maps.Keys(calls)) {
					// Not each command: a poll that strace interrupts. A line of the log is a poll and a write.
					if most := want[k.kind][name]*bumps + bumps/4 + slow; calls[name] > most {
						t.Errorf("%d commands: %s %d times, want at most %d", bumps, name, calls[name], most)
					}
				}
				durable := calls["fsync"] + calls["fdatasync"]
				if k.host != nil { // now and then the lease is renewed, too
					durable = 2 * min(calls["sendmsg"], bumps)
				}
				if durable != 2*bumps {
					t.Errorf("%d commands: calls %v, want two syncs or one request for each", bumps, calls)
				}
			})
		}
	}
}

// calls returns how often each call of a detached trace was made, without those of Go's runtime.
func (s *tracer) calls(t *testing.T) map[string]int {
	t.Helper()
	calls := map[string]int{}
	for _, m := range beginOfCall.FindAllStringSubmatch(harness.Read(t, s.file), -1) {
		if !slices.Contains(runtimeCalls, m[1]) {
			calls[m[1]]++
		}
	}
	return calls
}
