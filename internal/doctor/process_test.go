package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const netUnix = `Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 101 /run/x.sock
0000000000000000: 00000003 00000000 00000000 0001 03 102 /run/y.sock
0000000000000000: 00000002 00000000 00010000 0001 01 103 /run/with blank
0000000000000000: 00000002 00000000 00010000 0001 01 104
`

const netTCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0911 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 201 1 0 100 0 0 10 0
   1: 0100007F:0912 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 202 1 0 100 0 0 10 0
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 203 1 0 100 0 0 10 0
   3: 00000000000000000000000001000000:0913 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 204 1 0 100 0 0 10 0
`

// TestInodes checks which inode a listening socket has in the kernel's lists.
func TestInodes(t *testing.T) {
	for path, want := range map[string]uint64{"/run/x.sock": 101, "/run/y.sock": 0, "/run/with blank": 103, "/run": 0, "": 0} {
		if got := unixInode(netUnix, path); got != want {
			t.Errorf("unixInode(%q) = %d, want %d", path, got, want)
		}
	}
	for _, tt := range []struct {
		addr string
		port uint16
		want uint64
	}{
		{"127.0.0.1", 0x911, 201}, {"127.0.0.2", 0x911, 0}, {"0.0.0.0", 0x911, 201},
		{"127.0.0.1", 0x912, 0}, {"127.0.0.1", 22, 203}, {"::1", 0x913, 204}, {"::2", 0x913, 0},
	} {
		if got := tcpInode(netTCP, netip.MustParseAddr(tt.addr), tt.port); got != tt.want {
			t.Errorf("tcpInode(%s, %d) = %d, want %d", tt.addr, tt.port, got, tt.want)
		}
	}
}

// TestHolder checks that the process with a socket is found in a /proc of the test, and that
// this process is ignored.
func TestHolder(t *testing.T) {
	root := t.TempDir()
	fd := filepath.Join(root, "proc/4711/fd")
	if err := os.MkdirAll(fd, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("socket:[201]", filepath.Join(fd, "5")); err != nil {
		t.Fatal(err)
	}
	put(t, root, "/proc/4711/comm", "thief\n")
	put(t, root, "/proc/net/tcp", netTCP)
	put(t, root, "/proc/net/unix", strings.ReplaceAll(netUnix, " 101 ", " 201 "))
	x := &examination{root: root}
	const want = "process 4711 (thief)"
	if got := x.listenerOn(netip.MustParseAddr("127.0.0.1"), 0x911); got != want {
		t.Errorf("on the port: %q, want %q", got, want)
	}
	if got := x.listenerAt("/run/x.sock"); got != want {
		t.Errorf("at the path: %q, want %q", got, want)
	}
	if got := x.listenerAt("/run/none"); got == want || !strings.Contains(got, "process") {
		t.Errorf("at a path without a listener: %q", got)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	list, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skip("missing /proc/net/tcp:", err)
	}
	if tcpInode(string(list), addr.Addr(), addr.Port()) == 0 {
		t.Errorf("%v not found in /proc/net/tcp", addr)
	}
}

// put writes a file below root.
func put(t *testing.T, root, path, content string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// FuzzInodes checks that every inode comes from the list.
func FuzzInodes(f *testing.F) {
	f.Add(netUnix, "/run/x.sock", uint16(1))
	f.Add(netTCP, "127.0.0.1", uint16(0x911))
	f.Fuzz(func(t *testing.T, list, name string, port uint16) {
		found := []uint64{unixInode(list, name)}
		if addr, err := netip.ParseAddr(name); err == nil {
			found = append(found, tcpInode(list, addr, port))
		}
		for _, inode := range found {
			if inode != 0 && !strings.Contains(list, fmt.Sprint(inode)) {
				t.Errorf("%d is not in %q", inode, list)
			}
		}
	})
}
