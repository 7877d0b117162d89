//go:build cgo

package threads

import (
	"encoding/binary"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// signalStack is stack_t of sigaltstack(2).
type signalStack struct {
	address uintptr
	flags   int32
	size    uintptr
}

// used returns the number of pages of this thread's signal stack that have memory.
func used(t *testing.T) (n int) {
	t.Helper()
	var s signalStack
	if _, _, err := unix.RawSyscall(unix.SYS_SIGALTSTACK, 0, uintptr(unsafe.Pointer(&s)), 0); err != 0 || s.size == 0 {
		t.Fatalf("sigaltstack: %v, %+v", err, s)
	}
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := uintptr(os.Getpagesize())
	b := make([]byte, 8*(s.size/page))
	if _, err := f.ReadAt(b, int64(s.address/page*8)); err != nil {
		t.Fatal(err)
	}
	for ; len(b) > 0; b = b[8:] {
		n += int(binary.NativeEndian.Uint64(b) >> 63) // page present, see the kernel's pagemap.rst
	}
	return n
}

// TestGiveBack checks that a signal stack that was used has no memory afterwards, and that the next
// signal uses it again.
func TestGiveBack(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range 3 {
		if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGURG); err != nil { // which Go's runtime ignores
			t.Fatal(err)
		}
		before := used(t)
		GiveBack()
		if after := used(t); before == 0 || after != 0 {
			t.Errorf("%d pages before and %d after, want some and none", before, after)
		}
	}
}
