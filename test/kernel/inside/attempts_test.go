package inside_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attemptsVar is the variable that makes this program try attempts instead of running the tests.
const attemptsVar = "SWTPM_ATTEMPTS"

// attemptsName is the name of that program in the kernel's log.
const attemptsName = "attempts"

// attempts are what an attacker might try who has broken into an emulator before it is
// in its own sandbox, as root.
var attempts = []struct {
	what    string
	try     func() error
	allowed bool // to the emulator, too: the others are not denied for another reason
}{
	{"read a profile", reading("/etc/swtpm/free.toml"), true},
	{"make a state", func() error { return os.WriteFile("/var/lib/swtpm/attempt", nil, 0o600) }, true},
	{"read the passwords", reading("/etc/shadow"), false},
	{"read the key of the CA", reading("/var/lib/swtpm-ca/key"), false},
	{"read what belongs to somebody else", reading("/root/.profile"), true},
	{"change a profile", func() error { return os.WriteFile("/etc/swtpm/free.toml", nil, 0o600) }, false},
	{"change a unit", func() error { return os.WriteFile("/etc/systemd/system/x.service", nil, 0o600) }, false},
	{"run a program", func() error { return exec.Command("/bin/true").Run() }, false},
	{"mount", func() error {
		if err := unix.Mount("none", "/mnt", "tmpfs", 0, ""); err != nil {
			return err
		}
		return unix.Unmount("/mnt", 0)
	}, false},
	{"signal process 1", func() error { return unix.Kill(1, unix.SIGCONT) }, false},
	{"trace its parent", func() error {
		runtime.LockOSThread() // who traces is the thread, until the process ends
		return unix.PtraceSeize(os.Getppid())
	}, false},
	{"see all packets", func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}, false},
	{"set the clock", func() error {
		now := unix.NsecToTimeval(time.Now().UnixNano())
		return unix.Settimeofday(&now)
	}, false},
}

func reading(path string) func() error {
	return func() error { _, err := os.ReadFile(path); return err }
}

// makeAttempts reports each in one line.
func makeAttempts() {
	runtime.LockOSThread()
	name, _ := unix.BytePtrFromString(attemptsName)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	for _, a := range attempts {
		says := "done"
		if err := a.try(); err != nil {
			says = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Printf("%s: %s\n", a.what, says)
	}
}

// denials are the records of AppArmor and SELinux in the kernel's log that are about
// our programs.
func denials() (list []string) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return []string{err.Error()}
	}
	defer func() { _ = unix.Close(fd) }()
	b := make([]byte, 8<<10)
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EPIPE:
			return append(list, "the kernel's log was too short for all")
		case err != nil || n == 0:
			return list
		}
		if line := string(b[:n]); confinement().denied(line) {
			list = append(list, strings.TrimSpace(line))
		}
	}
}

// awaitDenial waits until the kernel's log has a denial with this text: a thread of the kernel writes
// the log later.
func awaitDenial(t *testing.T, text string) {
	t.Helper()
	until(t, "a denial of "+text, func() bool {
		return slices.ContainsFunc(denials(), func(d string) bool { return strings.Contains(d, text) })
	})
}

// unexpected returns the denials that no test expects.
func unexpected() (list []string) {
	for _, d := range denials() {
		ours := strings.Contains(d, `comm="`+attemptsName+`"`)
		for _, e := range expected {
			ours = ours || strings.Contains(d, e)
		}
		if !ours {
			list = append(list, d)
		}
	}
	return list
}

// expected are words of the denials that tests ask for.
var expected []string
