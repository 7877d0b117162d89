package vtpm

import (
	"encoding/binary"
	"testing"
	"unsafe"
)

// TestLayout holds the struct and the number against the kernel's header.
func TestLayout(t *testing.T) {
	var n newDevice
	if got := unsafe.Sizeof(n); got != 20 || binary.Size(n) != 20 {
		t.Errorf("the argument has %d bytes, want 20", got)
	}
	const readWrite = 3
	if want := uint32(readWrite<<30 | 20<<16 | 0xa1<<8); iocNewDev != want {
		t.Errorf("the ioctl is %#x, want %#x", uint32(iocNewDev), want)
	}
	if unsafe.Offsetof(n.FD) != 8 || unsafe.Offsetof(n.Minor) != 16 {
		t.Error("the fields are not where the kernel has them")
	}
}

// TestLine is what Incus parses: split at blanks, the seventh word is "A/B)".
func TestLine(t *testing.T) {
	got := Device{FD: 7, Number: 12, Major: 253, Minor: 65548}.String()
	if want := "New TPM device: /dev/tpm12 (major/minor = 253/65548)"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}
