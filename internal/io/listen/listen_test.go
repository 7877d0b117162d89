package listen

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

func unixEndpoint(path string) config.Endpoint {
	return config.Endpoint{Kind: config.Unix, Path: path, Mode: 0o600, UID: -1, GID: -1, FD: -1}
}

// greet connects to the address and checks that l accepts the connection.
func greet(t *testing.T, l *Listener, network, address string) {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	fd, err := l.TryAccept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := unix.Write(fd, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := c.Read(b); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v, want hello", b, err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the connection is not closed on exec (flags %#x, %v)", flags, err)
	}
}

// TestUnix checks the mode of a Unix socket, that it accepts clients, and that it is removed.
func TestUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Open(unixEndpoint(path))
	if err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket = %v, %v, want 0600", fi.Mode().Perm(), err)
	}
	greet(t, l, "unix", path)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("Close did not remove the socket")
	}
}

// TestStaleSocketIsReplaced checks that a socket that no process has open is replaced.
func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	_ = old.Close()
	l, err := Open(unixEndpoint(path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	greet(t, l, "unix", path)
}

// TestExistingFileStays checks that another file, and a socket in use, are refused and unchanged.
func TestExistingFileStays(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(unixEndpoint(file)); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("Open on a file: %v, want an error", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file changed to %q", b)
	}
	live := filepath.Join(dir, "live")
	l, err := Open(unixEndpoint(live))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := Open(unixEndpoint(live)); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("Open on a socket that is in use: %v, want an error", err)
	}
}

// TestProbeDoesNotConnect checks that Open does not connect to a socket that is in use.
func TestProbeDoesNotConnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Open(unixEndpoint(path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := Open(unixEndpoint(path)); err == nil {
		t.Fatal("Open on a socket that is in use succeeded")
	}
	if fd, err := l.TryAccept(); err != unix.EAGAIN {
		_ = unix.Close(fd)
		t.Errorf("the listener has a client (%v), want none", err)
	}
}

// TestOtherSockets checks that sockets which never listen are in use, too.
func TestOtherSockets(t *testing.T) {
	for kind, network := range map[int]string{unix.SOCK_DGRAM: "datagram", unix.SOCK_SEQPACKET: "seqpacket", unix.SOCK_STREAM: "stream"} {
		path := filepath.Join(t.TempDir(), "s")
		fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(unixEndpoint(path)); err == nil || !strings.Contains(err.Error(), "another process listens") {
			t.Errorf("Open on a %s socket: %v, want an error", network, err)
		}
		_ = unix.Close(fd)
		l, err := Open(unixEndpoint(path))
		if err != nil {
			t.Errorf("Open on a stale %s socket: %v", network, err)
			continue
		}
		_ = l.Close()
	}
}

// TestExactMode checks that a socket gets exactly each mode, also in a directory with a default
// ACL.
func TestExactMode(t *testing.T) {
	dir := t.TempDir()
	for _, acl := range []bool{false, true} {
		if acl {
			if err := unix.Setxattr(dir, "system.posix_acl_default", defaultACL, 0); err != nil {
				t.Logf("the file system has no ACLs: %v", err)
				break
			}
		}
		for mode := range os.FileMode(0o1000) {
			e := unixEndpoint(filepath.Join(dir, "s"))
			e.Mode = mode
			l, err := Open(e)
			if err != nil {
				t.Fatal(err)
			}
			if fi, err := os.Lstat(e.Path); err != nil || fi.Mode() != mode|os.ModeSocket {
				t.Errorf("default ACL %v: socket has %v, %v, want %v", acl, fi.Mode(), err, mode)
			}
			_ = l.Close()
		}
	}
}

// defaultACL is u::r--,g::r--,o::--- in the format of the kernel: version 2, then tag,
// permissions and id of each entry, little-endian.
var defaultACL = []byte("\x02\x00\x00\x00" +
	"\x01\x00\x04\x00\xff\xff\xff\xff" +
	"\x04\x00\x04\x00\xff\xff\xff\xff" +
	"\x20\x00\x00\x00\xff\xff\xff\xff")

// TestOwner checks the owner and the group of a socket.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to change an owner")
	}
	for _, ids := range [][2]int{{4711, 4712}, {4711, -1}, {-1, 4712}} {
		e := unixEndpoint(filepath.Join(t.TempDir(), "s"))
		e.UID, e.GID = ids[0], ids[1]
		l, err := Open(e)
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(e.Path, &st); err != nil {
			t.Fatal(err)
		}
		if int(st.Uid) != max(ids[0], 0) || int(st.Gid) != max(ids[1], os.Getegid()) || st.Mode&0o777 != 0o600 {
			t.Errorf("owner %v: socket has %d:%d and mode %o", ids, st.Uid, st.Gid, st.Mode)
		}
		_ = l.Close()
	}
}

// TestReplacedSocket checks that a file which replaces a new socket is neither followed nor
// accepted nor removed.
func TestReplacedSocket(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(unixEndpoint(filepath.Join(dir, "s")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Symlink("s", link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if f, _, err := openBound(path); err == nil {
			_ = f.Close()
			t.Errorf("%s was accepted as the new socket", path)
		}
	}
	f, made, err := openBound(filepath.Join(dir, "s"))
	if err != nil || !os.SameFile(made, l.made) {
		t.Fatalf("openBound of the new socket: %v", err)
	}
	_ = f.Close()
	remove(file, made)
	if _, err := os.Lstat(file); err != nil {
		t.Errorf("remove removed another file: %v", err)
	}
}

// TestCloseKeepsSuccessor checks that Close does not remove a socket that another process has
// created at the path.
func TestCloseKeepsSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Open(unixEndpoint(path))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	next, err := Open(unixEndpoint(path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = next.Close() }()
	_ = l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("Close removed the socket of its successor: %v", err)
	}
}

// port returns the port that l listens on.
func port(t *testing.T, l *Listener) int {
	t.Helper()
	sa, err := unix.Getsockname(l.Descriptor())
	if err != nil {
		t.Fatal(err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return sa.Port
	case *unix.SockaddrInet6:
		return sa.Port
	}
	t.Fatalf("no TCP address: %v", sa)
	return 0
}

// TestTCP checks TCP sockets of both families, and that a port in use is an error.
func TestTCP(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "::1"} {
		l, err := Open(config.Endpoint{Kind: config.TCP, Addr: addr})
		if err != nil {
			if addr == "::1" {
				t.Skipf("no IPv6: %v", err)
			}
			t.Fatal(err)
		}
		p := port(t, l)
		greet(t, l, "tcp", (&net.TCPAddr{IP: net.ParseIP(addr), Port: p}).String())
		if _, err := Open(config.Endpoint{Kind: config.TCP, Addr: addr, Port: p}); err == nil {
			t.Errorf("port %d of %s was bound twice", p, addr)
		}
		_ = l.Close()
	}
	for _, e := range []config.Endpoint{
		{Kind: config.TCP, Addr: "localhost"},
		{Kind: config.TCP, Addr: "fe80::1", IfName: "no-such-interface"},
		{Kind: config.TCP, Addr: "fe80::1", IfName: "../lo"},
	} {
		if l, err := Open(e); err == nil {
			_ = l.Close()
			t.Errorf("Open(%+v) succeeded", e)
		}
	}
}

// TestInherited checks inherited listening sockets, and that other descriptors are refused.
func TestInherited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	given, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = given.Close() }()
	f, err := given.File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	l, err := Open(config.Endpoint{Kind: config.ListenFD, FD: fd})
	if err != nil {
		t.Fatal(err)
	}
	greet(t, l, "unix", path)
	_ = l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("Close removed the path of an inherited socket: %v", err)
	}

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pair[0]); _ = unix.Close(pair[1]) }()
	if _, err := Open(config.Endpoint{Kind: config.ListenFD, FD: pair[0]}); err == nil || !strings.Contains(err.Error(), "does not listen") {
		t.Errorf("Open of a connected socket: %v, want an error", err)
	}
}
