package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
)

// terminal returns both ends of a pseudo terminal that passes bytes on as they
// are, and the path of the far one.
func terminal(t *testing.T) (here, there *os.File, path string) {
	t.Helper()
	here, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = here.Close() })
	if err := unix.IoctlSetPointerInt(int(here.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(here.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	path = fmt.Sprintf("/dev/pts/%d", n)
	there, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = there.Close() })
	raw := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.B38400}
	raw.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(int(there.Fd()), unix.TCSETS, &raw); err != nil {
		t.Fatal(err)
	}
	return here, there, path
}

// TestCharacterDevice checks that a character device is served as by the reference, and that its hang-up
// ends the process.
func TestCharacterDevice(t *testing.T) {
	t.Parallel()
	for name, program := range map[string]string{"ours": ours("swtpm"), "reference": harness.Need(t, "swtpm", "swtpm")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			here, there, path := terminal(t)
			p := harness.Start(t, exec.Command(program, "chardev", "--tpm2", "--tpmstate", "dir="+harness.TempDir(t),
				"-c", path, "-c", "/nonexistent", "--flags", "startup-clear"))
			exchange(t, here, random20)
			exchange(t, here, random20)
			_ = there.Close()
			_ = here.Close()
			if code := p.Wait(t); code != 0 {
				t.Errorf("exit code %d, want 0\n%s", code, p.Out.String())
			}
		})
	}
}

// TestCharacterDescriptor checks that a passed descriptor is served as the device, that the control
// channel works, and that SET_DATAFD is refused.
func TestCharacterDescriptor(t *testing.T) {
	t.Parallel()
	here, there := pair(t, unix.SOCK_STREAM)
	dir := harness.TempDir(t)
	ctrlPath := filepath.Join(dir, "c")
	cmd := exec.Command(ours("swtpm"), "chardev", "--tpm2", "--tpmstate", "dir="+dir, "-f", fmt.Sprint(passedFD),
		"--ctrl", "type=unixio,path="+ctrlPath)
	cmd.ExtraFiles = []*os.File{there}
	p := harness.Start(t, cmd)
	_ = there.Close()
	if err := harness.Until(func() bool { return harness.Listens(ctrlPath) }); err != nil {
		t.Fatal(err)
	}
	c := ctrl.NewClient(connect(t, ctrlPath))
	defer func() { _ = c.Close() }()
	if err := c.Init(0); err != nil {
		t.Fatal(err)
	}
	exchange(t, here, startup20)
	exchange(t, here, random20)
	other, far := pair(t, unix.SOCK_STREAM)
	if err := c.SetDataFD(int(far.Fd())); err == nil {
		t.Errorf("SET_DATAFD succeeds beside a device")
	}
	_ = other.Close()
	_ = here.Close()
	if code := p.Wait(t); code != 0 {
		t.Errorf("exit code %d, want 0\n%s", code, p.Out.String())
	}
}
