package listen

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// TestCheck checks that Check and Open agree, and that Check changes nothing.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) config.Endpoint { return unixEndpoint(filepath.Join(dir, name)) }
	if err := os.WriteFile(at("file").Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	busy, err := Open(at("busy"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: at("left").Path})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	_ = left.Close()
	tcp, err := Open(config.Endpoint{Kind: config.TCP, Addr: "127.0.0.1", FD: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	taken := config.Endpoint{Kind: config.TCP, Addr: "127.0.0.1", Port: port(t, tcp), FD: -1}

	for _, tt := range []struct {
		name string
		e    config.Endpoint
		left bool
		err  error
	}{
		{"no file", at("new"), false, nil},
		{"stale", at("left"), true, nil},
		{"a file", at("file"), false, ErrNotSocket},
		{"in use", at("busy"), false, ErrInUse},
		{"no directory", at("missing/s"), false, os.ErrNotExist},
		{"not a directory", at("file/s"), false, unix.ENOTDIR},
		{"TCP", config.Endpoint{Kind: config.TCP, Addr: "127.0.0.1", FD: -1}, false, nil},
		{"TCP, in use", taken, false, ErrInUse},
		{"TCP, not our address", config.Endpoint{Kind: config.TCP, Addr: "192.0.2.1", FD: -1}, false, unix.EADDRNOTAVAIL},
		{"TCP, no such interface", config.Endpoint{Kind: config.TCP, Addr: "fe80::1", IfName: "none0", FD: -1}, false, unix.ENODEV},
		{"descriptor", config.Endpoint{Kind: config.ListenFD, FD: 1 << 20}, false, unix.EBADF},
	} {
		wantCheck(t, tt.name, tt.e, tt.left, tt.err)
	}
	greet(t, busy, "unix", at("busy").Path) // no earlier client has connected
}

// wantCheck checks what Check says about an endpoint, and that Open agrees.
func wantCheck(t *testing.T, name string, e config.Endpoint, wantLeft bool, wantErr error) {
	t.Helper()
	left, err := Check(e)
	if left != wantLeft || !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) {
		t.Errorf("%s: Check = %v, %v, want %v, %v", name, left, err, wantLeft, wantErr)
	}
	if e.Kind == config.Unix {
		_, before := os.Lstat(e.Path)
		if exists := before == nil; exists != (wantLeft || wantErr == ErrNotSocket || wantErr == ErrInUse) {
			t.Errorf("%s: after Check the path exists: %v", name, exists)
		}
	}
	l, openErr := Open(e)
	if (openErr == nil) != (err == nil) {
		t.Errorf("%s: Check = %v, but Open = %v", name, err, openErr)
	}
	if openErr == nil {
		_ = l.Close()
	}
}
