package harness

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// Listens reports whether a process listens at the Unix socket path, by the kernel's list.
// It makes no connection, because swtpm 0.7 serves one client after the other.
func Listens(path string) bool { return listens("/proc/net/unix", path) }

// Listens is Listens in the network namespace of the process.
func (p *Process) Listens(path string) bool {
	return listens(fmt.Sprintf("/proc/%d/net/unix", p.Cmd.Process.Pid), path)
}

func listens(list, path string) bool {
	b, err := os.ReadFile(list)
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(b)) {
		// Num RefCount Protocol Flags Type St Inode Path; Flags has __SO_ACCEPTCON.
		f := strings.Fields(line)
		if len(f) == 8 && f[7] == path && f[3] == "00010000" {
			return true
		}
	}
	return false
}

// ListensTCP reports whether a process listens on a TCP port of this machine.
func ListensTCP(port int) bool {
	for _, list := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, _ := os.ReadFile(list)
		for line := range strings.Lines(string(b)) {
			// sl local_address rem_address st; state 0A is TCP_LISTEN.
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return true
			}
		}
	}
	return false
}

// Dial connects to the Unix socket at path once it accepts clients. The test fails if
// p has ended; p may be nil. Reads and writes fail after EventTimeout.
func Dial(t testing.TB, p *Process, path string) net.Conn {
	t.Helper()
	var conn net.Conn
	var dialErr error
	err := Until(func() bool {
		conn, dialErr = net.Dial("unix", path)
		return dialErr == nil || p != nil && p.Ended()
	})
	if err != nil || dialErr != nil {
		if p != nil {
			t.Fatalf("%v: %v; output:\n%s", p.Cmd, dialErr, p.Out.String())
		}
		t.Fatal(dialErr)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(EventTimeout))
	return conn
}
