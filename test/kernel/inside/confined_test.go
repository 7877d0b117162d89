package inside_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
)

// The tests below run under the policies of contrib/apparmor and contrib/selinux, one at a time,
// which are enforced: our programs as they are started in production, and actions that a process
// in their place must not do. At the end TestMain checks that nothing else was denied.

// place is a path that the profiles of units or the options of libvirt name.
const (
	virtState = "/var/lib/libvirt/swtpm/5f1d7c5e-0000-4000-8000-000000000001"
	virtRun   = "/run/libvirt/qemu/swtpm"
	virtLog   = "/var/log/swtpm/libvirt/qemu"
)

// own is a profile of a unit that makes its sockets itself, with a key that is a
// credential and numbers for a monitor.
const own = `[interface]
server = "unix:/run/swtpm/%i/data.sock"
[control]
listen = "unix:/run/swtpm/%i/ctrl.sock"
[tpmstate]
dir = "/var/lib/swtpm/%i"
[flags]
startup = "clear"
[key]
credential = "state-key"
mode = "aes-256-cbc"
[metrics]
listen = "unix:/run/swtpm/%i/metrics.sock"
`

// passed is one whose sockets systemd opens.
const passed = `[interface]
server = "systemd:data"
[control]
listen = "systemd:ctrl"
[tpmstate]
dir = "/var/lib/swtpm/%i"
[flags]
startup = "clear"
[manufacture]
ek = ["secp256r1"]
ek-cert = true
`

// write makes a file and the directories on the way to it.
func write(t *testing.T, path, text string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// isConfined checks that a process is in the domain of the emulators, and that the policy is
// enforced.
func isConfined(t *testing.T, pid string) {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/attr/current")
	if got := strings.TrimRight(string(b), "\n\x00"); err != nil || got != confinement().emulator {
		t.Errorf("process %s is %q, %v; want %q", pid, got, err, confinement().emulator)
	}
	if status, err := os.ReadFile("/proc/" + pid + "/status"); err != nil || !strings.Contains(string(status), "Seccomp:\t2\n") {
		t.Errorf("the sandbox is not on: %v\n%s", err, status)
	}
}

// dataSocket is a connection to the data channel that takes commands in hex.
type dataSocket struct{ net.Conn }

func dial(t *testing.T, network, address string) dataSocket {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return dataSocket{c}
}

// succeed sends a command that must succeed.
func (d dataSocket) succeed(t *testing.T, cmd string) {
	t.Helper()
	if _, err := d.Write(fromHex(t, cmd)); err != nil {
		t.Fatal(err)
	}
	rsp := make([]byte, 4096)
	if n, err := d.Read(rsp); err != nil || n < 10 || string(rsp[6:10]) != "\x00\x00\x00\x00" {
		t.Fatalf("response to %s: %x, %v", cmd, rsp[:max(n, 0)], err)
	}
}

// TestConfinedUnit checks the unit with sockets of its own and a key from systemd: it starts,
// answers, is reloaded, continues after a crash with the descriptors that systemd stores, stores
// its state, and stops.
func TestConfinedUnit(t *testing.T) {
	const name = "own"
	write(t, "/etc/swtpm/"+name+".toml", own)
	write(t, "/etc/systemd/system/swtpm@"+name+".service.d/key.conf", "[Service]\nSetCredential=state-key:"+strings.Repeat("5", 64)+"\n")
	installed(t, name)
	service(t, "start", name)
	pid := mainPID(t, name)
	isConfined(t, pid)
	d := dial(t, "unix", "/run/swtpm/"+name+"/data.sock")
	d.succeed(t, random20)
	run(t, "swtpm_ioctl", "--unix", "/run/swtpm/"+name+"/ctrl.sock", "-g")
	if b := make([]byte, 4096); true {
		m := dial(t, "unix", "/run/swtpm/"+name+"/metrics.sock")
		if n, err := m.Read(b); err != nil || !strings.Contains(string(b[:n]), "# TYPE") {
			t.Errorf("metrics: %q, %v", b[:max(n, 0)], err)
		}
	}
	service(t, "reload", name)
	service(t, "kill", name, "--signal=KILL")
	d.succeed(t, random20) // it has waited for the next process
	until(t, "another process", func() bool { now := mainPID(t, name); return now != pid && now != "0" })
	isConfined(t, mainPID(t, name))
	service(t, "restart", name)
	d.succeed(t, random20)
	service(t, "stop", name)
	if !exists("/var/lib/swtpm/" + name + "/tpm2-00.permall") {
		t.Error("the state was not stored")
	}
	if got := strings.TrimSpace(run(t, "systemctl", "show", "-P", "Result", "swtpm@"+name)); got != "success" {
		t.Errorf("the result is %q", got)
	}
}

// TestConfinedManufacture checks the unit with sockets of systemd, and the manufacture of its TPM
// before the first start: keys, certificates and CA.
func TestConfinedManufacture(t *testing.T) {
	const name = "made"
	write(t, "/etc/swtpm/"+name+".toml", passed)
	write(t, "/etc/systemd/system/swtpm-manufacture@"+name+".service.d/other.conf", "[Service]\nExecStartPost=-/bin/cat /etc/debian_version\n")
	expected = append(expected, `profile="swtpm-manufacture" name="/etc/debian_version"`)
	installed(t, name)
	run(t, "systemctl", "start", "swtpm@"+name+".socket", "swtpm-data@"+name+".socket")
	seen := confinements(t, "swtpm-setup")
	// The CA makes RSA keys, which may take minutes here.
	if out, err := exec.Command("timeout", "500", "systemctl", "start", "swtpm@"+name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := seen(); !slices.Equal(got, []string{confinement().maker}) {
		t.Errorf("swtpm-setup was %q, want %q", got, confinement().maker)
	}
	awaitDenial(t, expected[len(expected)-1]) // else the unit may read other files
	run(t, "swtpm_ioctl", "--unix", "/run/swtpm/"+name+"/ctrl.sock", "-g")
	isConfined(t, mainPID(t, name))
	dial(t, "unix", "/run/swtpm/"+name+"/data.sock").succeed(t, random20)
	service(t, "stop", name)
	for _, file := range []string{"/var/lib/swtpm-ca/signkey.pem", "/var/lib/swtpm/" + name + "/.manufactured"} {
		if !exists(file) {
			t.Errorf("there is no %s", file)
		}
	}
}

// confinements watches the processes of a program until the function that it returns
// is called, which prints what /proc/PID/attr/current had for them once they were
// that program.
func confinements(t *testing.T, program string) func() []string {
	t.Helper()
	stop, done := make(chan bool), make(chan []string)
	go func() {
		var list []string
		for {
			select {
			case <-stop:
				done <- list
				return
			case <-time.After(20 * time.Millisecond):
			}
			pids, _ := filepath.Glob("/proc/[0-9]*")
			for _, pid := range pids {
				exe, _ := os.Readlink(pid + "/exe")
				b, err := os.ReadFile(pid + "/attr/current")
				got := strings.TrimRight(string(b), "\n\x00")
				if err == nil && filepath.Base(exe) == program && !slices.Contains(list, got) {
					list = append(list, got)
				}
			}
		}
	}()
	return func() []string { close(stop); return <-done }
}

// installed makes systemd read the units again, and ends an instance with the test.
func installed(t *testing.T, name string) {
	t.Helper()
	run(t, "systemctl", "daemon-reload")
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("journalctl", "--no-pager", "-n", "60", "-u", "swtpm@"+name, "-u", "swtpm-manufacture@"+name).CombinedOutput()
			t.Logf("%s", out)
		}
		_ = exec.Command("systemctl", "stop", "swtpm@"+name+".socket", "swtpm-data@"+name+".socket", "swtpm@"+name).Run()
	})
}

// tss is the user that libvirt runs the emulators as.
func tss(t *testing.T) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("tss")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// TestConfinedLibvirt checks an emulator as libvirt starts it: a daemon of the user tss with
// libvirt's paths, a key in a pipe, and QEMU, which passes its data channel.
func TestConfinedLibvirt(t *testing.T) {
	as := tss(t)
	for _, dir := range []string{virtState + "/tpm2", virtRun, virtLog} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "chown", "-R", "tss:tss", dir)
	}
	if v := confinement().virt; v != nil {
		v(t)
	}
	sock, pidFile, log := virtRun+"/1-vm-swtpm.sock", virtRun+"/1-vm-swtpm.pid", virtLog+"/vm-swtpm.log"
	key, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.WriteString("a passphrase of libvirt's"); err != nil {
		t.Fatal(err)
	}
	_ = other.Close()
	cmd := exec.Command("swtpm", "socket", "--ctrl", "type=unixio,path="+sock+",mode=0600",
		"--tpmstate", "dir="+virtState+"/tpm2,mode=0600", "--log", "file="+log, "--terminate", "--tpm2",
		"--key", "pwdfd=3,mode=aes-256-cbc", "--pid", "file="+pidFile, "--daemon")
	cmd.ExtraFiles = []*os.File{key}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if out, err := cmd.CombinedOutput(); err != nil {
		text, _ := os.ReadFile(log)
		t.Fatalf("%v: %v: %s\n%s", cmd, err, out, text)
	}
	_ = key.Close()
	b, err := os.ReadFile(pidFile)
	pid := strings.TrimSpace(string(b))
	n, err1 := strconv.Atoi(pid)
	if err != nil || err1 != nil {
		t.Fatal(err, err1)
	}
	defer func() { _ = unix.Kill(n, unix.SIGKILL) }()
	conn := dial(t, "unix", sock)
	drive(t, pid, conn.Conn)
	_ = conn.Close() // --terminate
	until(t, "the end", func() bool { return unix.Kill(n, 0) != nil })
	if !exists(virtState + "/tpm2/tpm2-00.permall") {
		t.Error("the state was not stored")
	}
	if exists(pidFile) || exists(sock) {
		t.Error("the pid file or the socket is left behind")
	}
	if text, err := os.ReadFile(log); err != nil || strings.Contains(string(text), "ermission denied") {
		t.Errorf("the log: %v, %s", err, text)
	}
}

// drive uses the control channel as QEMU does, and checks that the process that serves it is
// confined while its TPM is on.
func drive(t *testing.T, pid string, conn net.Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := ctrl.NewClient(conn)
	if err := c.SetDataFD(pair[0]); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(pair[0])
	defer func() { _ = unix.Close(pair[1]) }()
	if err := c.Init(0); err != nil {
		t.Fatal(err)
	}
	succeed(t, pair[1], startup20)
	succeed(t, pair[1], random20)
	isConfined(t, pid)
}

// TestConfinedDescriptors checks sockets, a log and a pid file that a parent outside of the policy
// passes as descriptors, the state of libvirt, and an end by SIGTERM.
func TestConfinedDescriptors(t *testing.T) {
	state := virtState + "/two"
	for _, dir := range []string{state, virtLog} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "chown", "-R", "tss:tss", dir)
	}
	if v := confinement().virt; v != nil {
		v(t)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := os.NewFile(uintptr(pair[0]), "near"), os.NewFile(uintptr(pair[1]), "far")
	defer func() { _, _ = near.Close(), far.Close() }()
	log, err := os.Create(virtLog + "/two.log")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p := &process{cmd: exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--ctrl", "type=unixio,clientfd=3", "--log", "fd=4")}
	p.cmd.ExtraFiles = []*os.File{far, log}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: tss(t)}
	p.begin(t)
	conn, err := net.FileConn(near)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	drive(t, fmt.Sprint(p.cmd.Process.Pid), conn)
	p.end(t, unix.SIGTERM, 0)
	if !exists(state + "/tpm2-00.permall") {
		t.Error("the state was not stored")
	}
}

// TestConfinedDenied checks that the policy denies and logs everything that it does not allow, to
// the emulator and to a program in its place; the same attempts succeed where that program is not
// confined.
func TestConfinedDenied(t *testing.T) {
	write(t, "/etc/swtpm/free.toml", "")
	write(t, "/var/lib/swtpm-ca/key", "secret")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	// A path that the policy regards as the emulator's, and another one.
	for _, c := range []struct {
		path     string
		confined bool
	}{{"/usr/local/sbin/attempts", false}, {"/usr/local/bin/swtpm", true}} {
		write(t, c.path, string(self))
		defer func() { _ = os.Remove(c.path) }()
		if err := os.Chmod(c.path, 0o755); err != nil {
			t.Fatal(err)
		}
		if l := confinement().label; l != nil && c.confined {
			l(t, c.path)
		}
		cmd := exec.Command(c.path)
		cmd.Env = append(os.Environ(), attemptsVar+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v", cmd, err)
		}
		t.Logf("%s:\n%s", c.path, out)
		for _, a := range attempts {
			line := ""
			for l := range strings.Lines(string(out)) {
				if what, says, _ := strings.Cut(l, ": "); what == a.what {
					line = strings.TrimSpace(says)
				}
			}
			refused := strings.Contains(line, "permission denied") || strings.Contains(line, "not permitted")
			if want := c.confined && !a.allowed; refused != want || !want && line != "done" {
				t.Errorf("%s, %s: %q, refused should be %v", c.path, a.what, line, want)
			}
		}
	}
	awaitDenial(t, "shadow")
}
