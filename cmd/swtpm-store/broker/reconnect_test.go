package broker

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/store"
)

// datagramPair returns a socket that receives as the broker's does, and one that sends to it.
func datagramPair(t *testing.T) (to, from *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "datagrams")
		c, err := net.FileConn(f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	if err := passCredentials(ends[0]); err != nil {
		t.Fatal(err)
	}
	return ends[0], ends[1]
}

func send(t *testing.T, c *net.UnixConn, fds ...int) {
	t.Helper()
	if _, _, err := c.WriteMsgUnix([]byte{store.Version}, unix.UnixRights(fds...), nil); err != nil {
		t.Fatal(err)
	}
}

// descriptors returns the number of open descriptors of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestDatagramSender checks that the kernel passes the sender and a descriptor of its process, and
// that without the descriptor the unit is unknown.
func TestDatagramSender(t *testing.T) {
	to, from := datagramPair(t)
	send(t, from, 0)
	var b [1]byte
	oob := make([]byte, maxAncillary)
	_, n, _, _, err := to.ReadMsgUnix(b[:], oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	var d datagram
	d.parse(messages)
	defer d.close()
	if d.sender == nil || int(d.sender.Pid) != os.Getpid() || len(d.files) != 1 {
		t.Fatalf("datagram %+v", d)
	}
	if p, err := unix.GetsockoptInt(pair(t), unix.SOL_SOCKET, 77); err == nil { // the kernel has such descriptors
		_ = unix.Close(p)
		if len(d.pidfds) != 1 {
			t.Errorf("%d descriptors of the sender's process, want 1", len(d.pidfds))
		}
		if got, want := d.unit(), unitOf(os.Getpid()); got != want {
			t.Errorf("unit %q, want %q", got, want)
		}
	}
	if got := (&datagram{sender: d.sender}).unit(); got != "" {
		t.Errorf("unit %q without a descriptor of the process", got)
	}
}

// pair returns one end of a stream socket pair.
func pair(t *testing.T) int {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return fds[0]
}

// TestDatagramDescriptors checks that every descriptor of a datagram is closed, whatever it has.
func TestDatagramDescriptors(t *testing.T) {
	to, from := datagramPair(t)
	stream := pair(t)
	before := descriptors(t)
	many := make([]int, 253)
	for i := range many {
		many[i] = stream
	}
	for _, fds := range [][]int{many, {stream, stream}, {0}, {}} {
		send(t, from, fds...)
		if _, cred, err := receive(to); !errors.Is(err, errRequest) || int(cred.UID) != os.Getuid() {
			t.Errorf("%d descriptors: %+v, %v", len(fds), cred, err)
		}
	}
	send(t, from, stream)
	c, cred, err := receive(to)
	if err != nil || cred.PID != os.Getpid() {
		t.Fatalf("one socket: %+v, %v", cred, err)
	}
	_ = c.Close()
	if after := descriptors(t); after > before { // fewer if the garbage collector has closed some of another test
		t.Errorf("%d descriptors, there were %d", after, before)
	}
}

// TestEndedProcess checks that a process that ended has no unit: its number may be another one's.
func TestEndedProcess(t *testing.T) {
	c := exec.Command("sleep", "100")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := unix.PidfdOpen(c.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p)
	read := func() string { return "swtpm@vm1.service" }
	if got := whileAlive(p, read); got != "swtpm@vm1.service" {
		t.Errorf("unit of a running process: %q", got)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	if got := whileAlive(p, read); got != "" {
		t.Errorf("unit of a process that ended: %q", got)
	}
	if got := unitOfPeer(0, os.Getpid()); got != "" { // as before Linux 6.5, and as of a reaped process
		t.Errorf("unit without a descriptor of the process: %q", got)
	}
}
