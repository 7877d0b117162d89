package libtpms_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// tapped returns a TPM 2.0 that runs, and the tap of its engine.
func tapped(t *testing.T) (*emul.TPM, emul.Tapper) {
	t.Helper()
	x := started(t, newDisk(), tpm.V20)
	tap := libtpms.Engine().(emul.Tapper)
	b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	if err := tap.Tap(b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tap.Tap(nil) })
	return x, tap
}

// TestTappedCommands checks which commands are copied for the boot ledger: those that package recorder uses.
func TestTappedCommands(t *testing.T) {
	x, tap := tapped(t)
	measurements := []uint32{0x12b, 0x136, 0x13c, 0x13d, 0x182, 0x185}
	policies := []uint32{
		0x149, 0x151, 0x160, 0x16a, 0x16b, 0x16c, 0x16d, 0x16e, 0x16f, 0x170, 0x171, 0x172, 0x176, 0x17f,
		0x180, 0x187, 0x188, 0x18c, 0x18f, 0x190, 0x192,
	}
	const createLoaded = 0x191 // after a PolicyPCR
	want := append(append(measurements, policies...), createLoaded)
	for code := uint32(0x11f); code <= 0x1a0; code++ {
		cmd := binary.BigEndian.AppendUint32([]byte{0x80, 1, 0, 0, 0, 10}, code)
		run(t, x, cmd) // fails, because its parameters are missing
		if got := tap.Tapped() > 0; got != slices.Contains(want, code) {
			t.Errorf("command %#x: copied = %v", code, got)
		}
		clear(tap.TakeTapped())
	}
}

// TestTapIsEmptied checks that the entries are due after many commands without an entry: until they are taken, each
// wait for a command has a time limit.
func TestTapIsEmptied(t *testing.T) {
	x, tap := tapped(t)
	const many = 256
	random := harness.Unhex("8001 0000000c 0000017b 0010")
	for range 2 {
		run(t, x, harness.Unhex("8001 0000000a 00000182")) // PCR_Extend without parameters
		for i := range many {
			if tap.TapDue() {
				t.Fatalf("due after %d commands", i)
			}
			run(t, x, random)
		}
		if !tap.TapDue() {
			t.Fatalf("not due after %d commands", many)
		}
		clear(tap.TakeTapped())
	}
	for range 2 * many {
		run(t, x, random)
	}
	if tap.TapDue() || tap.Tapped() != 0 {
		t.Errorf("%d bytes, due = %v, want none", tap.Tapped(), tap.TapDue())
	}
}
