package linear

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/test/harness/nvtest"
)

// loop returns a block device of size bytes, and the file that it is made of.
func loop(t *testing.T, size int64) (device, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk")
	write(t, file, make([]byte, size))
	return nvtest.Loop(t, file), file
}

// TestDevice checks that the backend passes nvtest on a block device.
func TestDevice(t *testing.T) {
	nvtest.Test(t, func(t *testing.T) func() nv.Backend {
		device, _ := loop(t, 4<<20)
		o := options(t)
		o.Mode, o.ModeExplicit = 0o600, true // Proxmox asks for it
		return func() nv.Backend { return open(t, device, o) }
	})
}

// TestDeviceByLink checks that a link to a device is followed, as LVM has one, and
// that nothing of the device but its content is changed.
func TestDeviceByLink(t *testing.T) {
	device, file := loop(t, 64<<10)
	before, err := os.Stat(device)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "vm-100-disk-0")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.Mode, o.ModeExplicit = 0o601, true
	f := open(t, link, o)
	if err := f.Store(permall, []byte("state")); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Load(permall); string(got) != "state" || err != nil {
		t.Errorf("Load = %q, %v", got, err)
	}
	if f.Moved() {
		t.Error("moved")
	}
	f.Close()
	after, err := os.Stat(device)
	if err != nil || after.Mode() != before.Mode() {
		t.Errorf("mode %v, %v, was %v", after.Mode(), err, before.Mode())
	}
	// The stored item is synced: it is in the file of the loop device.
	if got, err := open(t, file, options(t)).Load(permall); string(got) != "state" || err != nil {
		t.Errorf("in the file: %q, %v", got, err)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
}

// TestDeviceNodeRemoved checks that a TPM goes on to use a device whose node is made anew, as udev may do: the
// content is in the device.
func TestDeviceNodeRemoved(t *testing.T) {
	device, file := loop(t, 64<<10)
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(t.TempDir(), "node")
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
		t.Fatal(err)
	}
	f := open(t, node, options(t))
	if err := os.Remove(node); err != nil {
		t.Fatal(err)
	}
	if err := f.Store(permall, []byte("state")); err != nil {
		t.Error(err)
	}
	if got, err := open(t, file, options(t)).Load(permall); string(got) != "state" || err != nil {
		t.Errorf("in the file: %q, %v", got, err)
	}
}
