package listen

import (
	"encoding/binary"
	"testing"
	"unsafe"
)

// TestProxyLayout compares the struct and the number with the header of the kernel.
func TestProxyLayout(t *testing.T) {
	var n newDevice
	if got := unsafe.Sizeof(n); got != 20 || binary.Size(n) != 20 {
		t.Errorf("the argument has %d bytes, want 20", got)
	}
	const readWrite = 3
	if want := uint32(readWrite<<30 | 20<<16 | 0xa1<<8); iocNewDev != want {
		t.Errorf("the ioctl is %#x, want %#x", uint32(iocNewDev), want)
	}
	if unsafe.Offsetof(n.FD) != 8 || unsafe.Offsetof(n.Minor) != 16 {
		t.Error("a field has another offset than in the header of the kernel")
	}
}

// TestProxyLine checks the line that Incus parses: of the words between blanks, the seventh is "A/B)".
func TestProxyLine(t *testing.T) {
	got := Proxy{FD: 7, Number: 12, Major: 253, Minor: 65548}.String()
	if want := "New TPM device: /dev/tpm12 (major/minor = 253/65548)"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}
