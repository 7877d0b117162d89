package systemd_test

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// must runs a command in the container that has to succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	return mustIn(t, patience, args...)
}

// mustLong is must for a command about hundreds of TPMs.
func mustLong(t *testing.T, args ...string) {
	t.Helper()
	mustIn(t, long, args...)
}

// mustIn is must for a command that may take a time.
func mustIn(t *testing.T, most time.Duration, args ...string) string {
	t.Helper()
	out, err := inFor(most, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// fails runs a command in the container that must not succeed.
func fails(t *testing.T, args ...string) string {
	t.Helper()
	out, err := in(args...)
	if err == nil {
		t.Fatalf("%s succeeded: %s", strings.Join(args, " "), out)
	}
	return out
}

// inside returns the path by which we see a file of the container.
func inside(file string) string { return fmt.Sprintf("/proc/%d/root%s", leader, file) }

// put writes a file of the container.
func put(t *testing.T, file string, mode os.FileMode, text string) {
	t.Helper()
	must(t, "mkdir", "-p", path.Dir(file))
	if err := os.WriteFile(inside(file), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(inside(file), mode); err != nil {
		t.Fatal(err)
	}
}

// instance is a TPM of the test's own. Its profile is that of most tests unless
// more follows, and its units are stopped at the end, with the journal in the
// test's log if the test failed.
func instance(t *testing.T, profile string) (name string) {
	t.Helper()
	if os.Getenv(innerVar) == "" {
		t.Skip("TestSystemd runs this in a container")
	}
	name = strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	put(t, "/etc/swtpm/"+name+".toml", 0o644, profile)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := in("journalctl", "--no-pager", "--unit", service(name))
			t.Logf("%s", out)
			out, _ = in("systemctl", "status", "--no-pager", "--lines=0", service(name), socket(name))
			t.Logf("%s", out)
		}
		_, _ = in("systemctl", "stop", socket(name), dataSocket(name), service(name))
	})
	return name
}

func service(name string) string    { return "swtpm@" + name + ".service" }
func socket(name string) string     { return "swtpm@" + name + ".socket" }
func dataSocket(name string) string { return "swtpm-data@" + name + ".socket" }

// dropIn adds to the service of an instance.
func dropIn(t *testing.T, unit, text string) {
	t.Helper()
	put(t, "/etc/systemd/system/"+unit+".d/test.conf", 0o644, text)
	must(t, "systemctl", "daemon-reload")
}

// property returns a property of a unit.
func property(t *testing.T, unit, name string) string {
	t.Helper()
	return strings.TrimSpace(must(t, "systemctl", "show", "--property="+name, "--value", unit))
}

// await waits until a property has a value.
func await(t *testing.T, unit, name, want string) {
	t.Helper()
	var got string
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if got = property(t, unit, name); got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s of %s is %q, want %q", name, unit, got, want)
		}
	}
}

// journal returns what was logged of a unit, in the form that journalctl calls so.
// It waits until all lines have reached the journal.
func journal(t *testing.T, unit, form string) string {
	t.Helper()
	must(t, "journalctl", "--sync")
	args := []string{"journalctl", "--no-pager", "--output=" + form, "_SYSTEMD_UNIT=" + unit, "+", "UNIT=" + unit}
	if name, ok := strings.CutPrefix(strings.TrimSuffix(unit, ".service"), "swtpm@"); ok {
		args = append(args, "+", "SWTPM_INSTANCE="+name) // the last words of a process that has ended belong to no unit
	}
	return must(t, args...)
}

// ioctl runs swtpm_ioctl on the control socket of an instance.
func ioctl(t *testing.T, name string, args ...string) string {
	t.Helper()
	return must(t, append([]string{"swtpm_ioctl", "--unix", "/run/swtpm/" + name + "/ctrl.sock"}, args...)...)
}

// dial connects to the data socket of an instance.
func dial(t *testing.T, name string) net.Conn {
	t.Helper()
	// A short path: the path of the container's root may be too long for a socket.
	dir, err := os.Open(inside("/run/swtpm/" + name))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c, err := net.Dial("unix", filepath.Join("/proc/self/fd", fmt.Sprint(dir.Fd()), "data.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// command sends a command to a TPM and wants success.
func command(t *testing.T, c net.Conn, cmd string) {
	t.Helper()
	if err := try(c, cmd); err != nil {
		t.Fatal(err)
	}
}

// try sends a command to a TPM; anything but success is an error.
func try(c net.Conn, cmd string) error {
	rsp, err := transmit(c, cmd)
	if err == nil && string(rsp[6:10]) != "\x00\x00\x00\x00" {
		err = fmt.Errorf("response %x", rsp)
	}
	return err
}

// transmit sends a command and returns the response.
func transmit(c net.Conn, cmd string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(cmd, " ", ""))
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	rsp := make([]byte, 4096)
	n, err := c.Read(rsp)
	if err == nil && n < 10 {
		err = fmt.Errorf("response %x", rsp[:n])
	}
	return rsp[:n], err
}

const getRandom = "8001 0000000c 0000017b 0008" // TPM2_GetRandom of 8 bytes
