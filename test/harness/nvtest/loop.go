package nvtest

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Loop returns the path of a block device with the content of file, which is a
// multiple of 512 bytes, until the test ends. It skips the test where there can
// be none.
func Loop(t testing.TB, file string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a loop device")
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("there are no loop devices here: %v", err)
	}
	defer control.Close()
	back, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	for range 20 { // others may take the same one
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("there is no free loop device: %v", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		dev, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Skipf("there is no free loop device: %v", err)
		}
		// It goes with its last descriptor, also if the test is killed.
		c := unix.LoopConfig{Fd: uint32(back.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &c)
		if err == nil {
			t.Cleanup(func() { dev.Close() })
			return path
		}
		dev.Close()
		if err != unix.EBUSY {
			t.Skipf("a loop device cannot be made: %v", err)
		}
	}
	t.Skip("all loop devices are taken")
	return ""
}
