package stack

import (
	"testing"
	"unsafe"
)

// TestGrow checks that the stack of a goroutine has space for 16 kB afterwards: it does not move when
// that space is used. It tries again, because a collection may shrink the stack meanwhile.
func TestGrow(t *testing.T) {
	for range 100 {
		stays := make(chan bool)
		go func() {
			Grow()
			var here byte
			before := uintptr(unsafe.Pointer(&here))
			use()
			Grow()
			stays <- uintptr(unsafe.Pointer(&here)) == before
		}()
		if <-stays {
			return
		}
	}
	t.Error("the stack moves when 16 kB of it are used")
}

// use uses 16 kB of the stack.
//
//go:noinline
func use() {
	var b [16 << 10]byte
	for i := range b {
		b[i] = byte(i)
	}
	_ = b
}
