package inside_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A command that takes its time: TPM2_CreatePrimary of an RSA key of 2048 bits.
const primary20 = "8002 00000043 00000131 40000001 00000009 40000009 0000 00 0000 0004 0000 0000" +
	"001a 0001 000b 00030072 0000 0006 0080 0043 0010 0800 00000000 0000 0000 00000000"

var cuseNames atomic.Int32

// cuseDevice is an emulator as a device of its own; what it is started with is a
// daemon.
type cuseDevice struct {
	path string
	pid  int
}

// startCUSE starts our emulator by the classic command line, which comes back when the
// device exists. It ends with the test.
func startCUSE(t *testing.T, state string, args ...string) *cuseDevice {
	t.Helper()
	name := fmt.Sprintf("vtpm%d", cuseNames.Add(1))
	pid := stateDir(t) + "/pid" // written by the user of --runas
	run(t, "swtpm", append([]string{"cuse", "-n", name, "--tpmstate", "dir=" + state, "--pid", "file=" + pid, "--log", "file=" + pid + ".log"}, args...)...)
	d := &cuseDevice{path: "/dev/" + name}
	until(t, "the pid file", func() bool { b, err := os.ReadFile(pid); return err == nil && len(b) > 0 })
	b, err := os.ReadFile(pid)
	if err == nil {
		_, err = fmt.Sscan(string(b), &d.pid)
	}
	if err != nil || !exists(d.path) {
		t.Fatalf("pid %q, %v; the device: %v", b, err, exists(d.path))
	}
	t.Cleanup(func() {
		_ = unix.Kill(d.pid, unix.SIGKILL)
		if t.Failed() {
			log, _ := os.ReadFile(pid + ".log")
			t.Logf("the log: %s", log)
		}
	})
	return d
}

// ended waits for the end of the process and of the device.
func (d *cuseDevice) ended(t *testing.T) {
	t.Helper()
	until(t, "the end of the process", func() bool { return unix.Kill(d.pid, 0) != nil })
	until(t, "the end of the device", func() bool { return !exists(d.path) })
}

// ctl runs swtpm_ioctl on the device, and checks its standard output.
func (d *cuseDevice) ctl(t *testing.T, want string, args ...string) {
	t.Helper()
	out := run(t, "swtpm_ioctl", append(args, d.path)...)
	if !strings.Contains(out, want) {
		t.Errorf("swtpm_ioctl %q says %q, want %q", args, out, want)
	}
}

// fails checks that swtpm_ioctl fails with a result.
func (d *cuseDevice) fails(t *testing.T, want string, args ...string) {
	t.Helper()
	_, err := try("swtpm_ioctl", append(args, d.path)...)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("swtpm_ioctl %q: %v, want %s", args, err, want)
	}
}

// TestCUSEState checks that the state moves from one device to another, by ioctl and by read and
// write.
func TestCUSEState(t *testing.T) {
	for _, size := range []string{"", "1000", "4096"} {
		t.Run("pieces "+size, func(t *testing.T) {
			if size != "" {
				t.Setenv("SWTPM_IOCTL_BUFFERSIZE", size)
			}
			from := startCUSE(t, stateDir(t), "--tpm2", "--flags", "startup-clear")
			run(t, "tpm2_nvdefine", "-T", "device:"+from.path, "0x1500001", "-s", "2048", "-a", "ownerread|ownerwrite")
			fd := open(t, from.path)
			const extend = "8002 00000041 00000182 00000010 00000009 40000009 0000 00 0000 00000001 000b" // and a digest
			succeed(t, fd, extend+strings.Repeat("11", 32))
			read := "8001 00000014 0000017e 00000001 000b 03 000001"
			want := succeed(t, fd, read)
			_ = unix.Close(fd)
			t.Chdir(t.TempDir())
			for _, blob := range []string{"permanent", "volatile", "savestate"} {
				from.ctl(t, "", "--save", blob, blob)
			}
			from.ctl(t, "", "-s")
			from.ended(t)

			to := startCUSE(t, stateDir(t), "--tpm2")
			for _, blob := range []string{"permanent", "volatile"} {
				to.ctl(t, "", "--load", blob, blob)
			}
			to.ctl(t, "", "-i")
			to.fails(t, "0xa", "--load", "permanent", "permanent")
			fd = open(t, to.path)
			if got := succeed(t, fd, read); got != want {
				t.Errorf("PCR 16 is %s, want %s", got, want)
			}
			_ = unix.Close(fd)
			b, err := os.ReadFile("permanent")
			if err != nil || len(b) <= 3072 {
				t.Errorf("the permanent state has %d bytes: %v", len(b), err)
			}
			to.ctl(t, "", "-s")
			to.ended(t)
		})
	}
}

// TestCUSESnapshot checks that a running TPM is copied through its device, that the copy starts
// with the state of that moment, and that a device that is in use is refused.
func TestCUSESnapshot(t *testing.T) {
	from := startCUSE(t, stateDir(t), "--tpm2", "--flags", "startup-clear")
	run(t, "tpm2_nvdefine", "-T", "device:"+from.path, "0x1500001", "-s", "2048", "-a", "ownerread|ownerwrite")
	fd := open(t, from.path)
	const extend = "8002 00000041 00000182 00000010 00000009 40000009 0000 00 0000 00000001 000b" // and a digest
	succeed(t, fd, extend+strings.Repeat("11", 32))
	read := "8001 00000014 0000017e 00000001 000b 03 000001"
	want := succeed(t, fd, read)
	file := t.TempDir() + "/snapshot"
	if _, err := try("swtpm", "state", "snapshot", "--ctrl", from.path, file); err == nil || !strings.Contains(err.Error(), "device or resource busy") {
		t.Errorf("snapshot of a device that is open: %v", err)
	}
	_ = unix.Close(fd)
	if out := run(t, "swtpm", "state", "snapshot", "--json", "--ctrl", from.path, file); !strings.Contains(out, `"items":["permall","volatilestate"]`) {
		t.Errorf("snapshot: %s", out)
	}
	fd = open(t, from.path)
	succeed(t, fd, extend+strings.Repeat("22", 32)) // the source continues
	_ = unix.Close(fd)
	from.ctl(t, "", "-s")
	from.ended(t)

	state := stateDir(t)
	run(t, "swtpm", "state", "import", "--tpmstate", "dir="+state, file)
	to := startCUSE(t, state, "--tpm2")
	to.ctl(t, "", "-i")
	fd = open(t, to.path)
	if got := succeed(t, fd, read); got != want {
		t.Errorf("PCR 16 is %s, want %s", got, want)
	}
	_ = unix.Close(fd)
	run(t, "tpm2_nvreadpublic", "-T", "device:"+to.path, "0x1500001")
	to.ctl(t, "", "-s")
	to.ended(t)
}

// TestCUSETools checks tpm2-tools on the device, which has no resource manager.
func TestCUSETools(t *testing.T) {
	d := startCUSE(t, stateDir(t), "--tpm2", "--flags", "startup-clear", "--runas", "nobody")
	run(t, "tpm2_getrandom", "-T", "device:"+d.path, "--hex", "8")
	run(t, "tpm2_createprimary", "-T", "device:"+d.path, "-G", "ecc", "-c", t.TempDir()+"/primary")
	powerlessUser(t, d.pid)
	_ = unix.Kill(d.pid, unix.SIGTERM)
	d.ended(t)
}

func powerlessUser(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || !strings.Contains(string(status), fmt.Sprintf("Uid:\t%d\t", nobody)) {
		t.Errorf("the process is not that of nobody: %v\n%s", err, status)
	}
}

// TestCUSEOpeners checks that one process at a time opens the device, and the next one after the
// first has closed it. A response can be read in pieces; the next command removes an unread one,
// which delays neither that command nor the end of the process.
func TestCUSEOpeners(t *testing.T) {
	d := startCUSE(t, stateDir(t), "--tpm2", "--flags", "startup-clear")
	first := open(t, d.path)
	if _, err := unix.Open(d.path, unix.O_RDWR, 0); err != unix.EBUSY {
		t.Errorf("a second opener: %v, want EBUSY", err)
	}
	d.fails(t, "Unable to open device", "-c")
	cmd, rsp := []byte("\x80\x01\x00\x00\x00\x0c\x00\x00\x01\x7b\x00\x08"), make([]byte, 4096)
	for range 3 { // never read
		if n, err := unix.Write(first, cmd); n != len(cmd) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	total := 0
	for {
		n, err := unix.Read(first, rsp[total:total+3])
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n == 0 {
			break
		}
	}
	if total != 20 || !bytes.Equal(rsp[:10], []byte("\x80\x01\x00\x00\x00\x14\x00\x00\x00\x00")) {
		t.Errorf("response in pieces: %x", rsp[:total])
	}
	long := append([]byte("\x80\x01\x00\x00\x10\x00\x00\x00\x01\x7b"), make([]byte, 20000)...)
	if n, err := unix.Write(first, long); n != 4096 || err != nil {
		t.Errorf("a write of %d bytes: %d, %v; want 4096", len(long), n, err)
	}
	_ = unix.Close(first)
	second := open(t, d.path)
	succeed(t, second, random20)
	if _, err := unix.Write(second, cmd); err != nil { // and never read
		t.Fatal(err)
	}
	_ = unix.Kill(d.pid, unix.SIGTERM)
	d.ended(t)
}

// TestCUSELong checks a command that takes long: write returns at once, poll and a non-blocking
// read report that it runs, another write is refused, it can be cancelled, a reader can be
// interrupted, and SIGTERM waits for it.
func TestCUSELong(t *testing.T) {
	d := startCUSE(t, stateDir(t), "--tpm2", "--flags", "startup-clear")
	fd := open(t, d.path)
	begin := func() {
		b := fromHex(t, primary20)
		if _, err := unix.Write(fd, b); err != nil {
			t.Fatal(err)
		}
	}
	begin()
	if _, err := unix.Write(fd, fromHex(t, random20)); err != unix.EBUSY {
		t.Errorf("a second command: %v, want EBUSY", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	rsp := make([]byte, 4096)
	if _, err := unix.Read(fd, rsp); err != unix.EAGAIN {
		t.Errorf("a read that does not wait: %v, want EAGAIN", err)
	}
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(p, 0); n != 0 && err == nil {
		t.Errorf("poll tells %#x while the command runs", p[0].Revents)
	}
	for n := 0; n == 0; {
		var err error
		if n, err = unix.Poll(p, int(patience.Milliseconds())); err != nil && err != unix.EINTR || n == 0 && err == nil {
			t.Fatalf("poll: %d, %v", n, err)
		}
		n = max(n, 0)
	}
	n, err := unix.Read(fd, rsp)
	if err != nil || n < 200 || binary.BigEndian.Uint32(rsp[6:]) != 0 {
		t.Errorf("response: %d bytes, %v: %x", n, err, rsp[:min(max(n, 0), 10)])
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	begin() // the TPM has room for it
	var result [4]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0x80045008, uintptr(unsafe.Pointer(&result))); errno != 0 || result != [4]byte{} {
		t.Errorf("cancel: %v, %x", errno, result)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), 0x8004500F, uintptr(unsafe.Pointer(&result))); errno != unix.EINVAL {
		t.Errorf("SET_DATAFD: %v, want EINVAL", errno)
	}
	begun := time.Now()
	_ = unix.Kill(d.pid, unix.SIGTERM)
	if n, err := unix.Read(fd, rsp); err == nil && n < 10 {
		t.Errorf("response at the end: %d bytes", n)
	}
	d.ended(t)
	t.Logf("ended after %v", time.Since(begun))
}

// TestCUSEKilled checks that a process that waits for a response gets an error, and that the
// device is removed, if the emulator is killed while a command runs.
func TestCUSEKilled(t *testing.T) {
	state := stateDir(t)
	d := startCUSE(t, state, "--tpm2", "--flags", "startup-clear")
	fd := open(t, d.path)
	if _, err := unix.Write(fd, fromHex(t, primary20)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := unix.Read(fd, make([]byte, 4096))
		done <- err
	}()
	time.Sleep(100 * time.Millisecond)
	_ = unix.Kill(d.pid, unix.SIGKILL)
	select {
	case <-done:
	case <-after():
		t.Fatal("a process still waits for the response of a dead emulator")
	}
	_ = unix.Close(fd)
	d.ended(t)
	d = startCUSE(t, state, "--tpm2", "--flags", "startup-clear")
	succeed(t, open(t, d.path), random20)
}

// TestCUSEExitCodes checks each exit code and the message that belongs to it.
func TestCUSEExitCodes(t *testing.T) {
	// The image backend opens the directory of a file first, to sync the name of the file.
	expected = append(expected, `name="/proc/"`, `name="/proc/version"`)
	state := "dir=" + stateDir(t)
	taken := startCUSE(t, stateDir(t), "--tpm2")
	name := strings.TrimPrefix(taken.path, "/dev/")
	for _, c := range []struct {
		args string
		want int
		says string
	}{
		{"--tpm2 --tpmstate " + state, 254, "device name missing"},
		{"-n vtpmx1 --tpm2", 255, "Missing state"},
		{"-n vtpmx1 -M 65536 --tpm2 --tpmstate " + state, 255, "Major number"},
		{"-n vtpmx1 -m 70000 --tpm2 --tpmstate " + state, 255, "Major number"},
		{"-n vtpmx1 --tpmstate zz", 253, "Unknown option 'zz'"},
		{"-n vtpmx1 --tpmstate " + state + " --key file=/nonexistent", 253, "/nonexistent"},
		{"-n vtpmx1 --tpmstate " + state + " --runas no-such-user", 251, "no-such-user"},
		{"-n " + name + " --tpmstate " + state, 255, "already exists"},
		{"-n vtpmx1 --tpmstate " + state + " operand", 1, "Unknown parameter 'operand'"},
		{"-n vtpmx1 --tpmstate " + state + " --log zz", 1, "Unknown option 'zz'"},
		{"-n vtpmx1 --tpmstate file:///proc/version --flags not-need-init --tpm2", 253, ""},
		{"-n vtpmx1 --tpm2 --tpmstate backend-uri=file:///proc/version --flags not-need-init", 255, "/proc/version"},
		{"--zz --version", 0, "TPM emulator CUSE interface version"},
		{"-n vtpmx1 --tpm2 --zz --tpmstate " + state + " --print-capabilities", 0, "unrecognized option '--zz'"},
	} {
		out, err := exec.Command("timeout", append([]string{"60", "swtpm", "cuse"}, strings.Fields(c.args)...)...).CombinedOutput()
		code := 0
		if e, ok := err.(*exec.ExitError); ok {
			code = e.ExitCode()
		}
		if code != c.want || !strings.Contains(string(out), c.says) {
			t.Errorf("swtpm cuse %s: exit code %d, %s; want %d, %s", c.args, code, out, c.want, c.says)
		}
	}
	if exists("/dev/vtpmx1") {
		t.Error("a device is left over")
	}
}

// TestUnitCUSE checks the unit with the drop-in for CUSE: the device has the group that udev sets,
// and the process that serves it has no rights.
func TestUnitCUSE(t *testing.T) {
	unit(t, "vtpm0", "cuse.toml", "cuse.conf")
	service(t, "start", "vtpm0")
	run(t, "udevadm", "settle")
	if got := run(t, "stat", "-c", "%a %G", "/dev/vtpm0"); got != "660 tss\n" {
		t.Errorf("/dev/vtpm0 is %q, want 660 tss", got)
	}
	if got := run(t, "stat", "-c", "%a %G", "/dev/cuse"); got != "660 swtpm-devices\n" {
		t.Errorf("/dev/cuse is %q, want 660 swtpm-devices", got)
	}
	run(t, "tpm2_getrandom", "-T", "device:/dev/vtpm0", "--hex", "8")
	service(t, "stop", "vtpm0")
	until(t, "the end of the device", func() bool { return !exists("/dev/vtpm0") })
}
