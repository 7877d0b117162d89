package config

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestHelp checks that a request for help is found in each position.
func TestHelp(t *testing.T) {
	for _, args := range []string{"-h", "--help", "--he", "-th", "--help -x", "foo --help", "--tpmstate zz -h"} {
		_, err := Classic("socket", strings.Fields(args), noEnv)
		var h *HelpRequested
		if !errors.As(err, &h) || h.Text != Usage("socket") {
			t.Errorf("%s: %v, want the help text", args, err)
		}
	}
	if !strings.HasPrefix(VersionLine("1.2.3"), "TPM emulator version 1.2.3, Copyright ") {
		t.Errorf("VersionLine = %q", VersionLine("1.2.3"))
	}
}

// TestOtherInterfaces checks the error about an unknown interface.
func TestOtherInterfaces(t *testing.T) {
	for _, iface := range []string{"foo", "-x", ""} {
		_, err := Classic(iface, []string{"--help"}, noEnv)
		var u *UsageError
		want := "Unsupported TPM interface type '" + iface + "'."
		if !errors.As(err, &u) || u.Error() != want || !u.NoInterface || u.Code != 1 {
			t.Errorf("Classic(%q) = %v, want %s", iface, err, want)
		}
	}
}

// with returns the defaults, changed by f.
func with(f func(*Config)) *Config {
	c := defaults()
	f(c)
	return c
}

var classicTCP = func(addr string, port int) Endpoint {
	return Endpoint{Kind: TCP, Addr: addr, Port: port, Mode: 0o770, UID: -1, GID: -1, FD: -1}
}

var classicUnixAt = func(path string) Endpoint {
	return Endpoint{Kind: Unix, Path: path, Mode: 0o770, UID: -1, GID: -1, FD: -1}
}

// classicCases are the cases of TestClassic.
var classicCases = []struct {
	args string
	want func(*Config)
}{
	{"", func(*Config) {}},
	{"--", func(*Config) {}},
	{"--tpm2 -d", func(c *Config) { c.TPM, c.Daemon = tpm.V20, true }},
	{"-td", func(c *Config) { c.Interface.Terminate, c.Daemon = true, true }},
	{"-tp2321", func(c *Config) {
		c.Interface = Interface{Type: "socket", Server: classicTCP("127.0.0.1", 2321), Disconnect: true, Terminate: true}
	}},
	{"-p 0x911", func(c *Config) { c.Interface.Server, c.Interface.Disconnect = classicTCP("127.0.0.1", 2321), true }},
	{"--port=010", func(c *Config) { c.Interface.Server, c.Interface.Disconnect = classicTCP("127.0.0.1", 8), true }},
	{"-p 5 --server type=unixio,path=s", func(c *Config) { c.Interface.Server = classicUnixAt("s") }},
	{"--server type=unixio,path=s -p 5", func(c *Config) { c.Interface.Server, c.Interface.Disconnect = classicTCP("127.0.0.1", 5), true }},
	{"-p 5 --server type=tcp", func(c *Config) { c.Interface.Server = classicTCP("127.0.0.1", 5) }}, // -p sets TPM_PORT
	{"--server port=5,bindaddr=::1,disconnect", func(c *Config) { c.Interface.Server, c.Interface.Disconnect = classicTCP("::1", 5), true }},
	{"--server port=5,bindaddr=fe80::1,ifname=eth0", func(c *Config) {
		c.Interface.Server = classicTCP("fe80::1", 5)
		c.Interface.Server.IfName = "eth0"
	}},
	{"--server port=5,ifname=eth0,mode=0600,uid=3", func(c *Config) { c.Interface.Server = classicTCP("127.0.0.1", 5) }},
	{"--server type=unixio,path=s,mode=0600,uid=3,gid=4", func(c *Config) {
		c.Interface.Server = classicUnixAt("s")
		c.Interface.Server.Mode, c.Interface.Server.UID, c.Interface.Server.GID = 0o600, 3, 4
	}},
	{"--server type=unixio,path", func(c *Config) { c.Interface.Server = classicUnixAt("true") }},
	{"--server path={a},type=unixio", func(c *Config) { c.Interface.Server = classicUnixAt("{a}") }},
	{"--ctrl type=unixio,path=c,mode=0600,terminate", func(c *Config) {
		c.Control = Control{Listen: classicUnixAt("c"), Terminate: true}
		c.Control.Listen.Mode = 0o600
	}},
	{"--ctrl type=tcp,port=0,bindaddr=0.0.0.0", func(c *Config) { c.Control.Listen = classicTCP("0.0.0.0", 0) }},
	{"--ctrl type=unixio,path=a --ctrl type=unixio,path=b", func(c *Config) { c.Control.Listen = classicUnixAt("b") }},
	{"--tpmstate dir=st", func(c *Config) { c.State.Location = nv.Location{Kind: nv.Directory, Path: "st"} }},
	{"--tpmstate backend-uri=dir://st,dir=x,mode=0600,lock=false,backup,fsync", func(c *Config) {
		c.State = State{Location: nv.Location{Kind: nv.Directory, Path: "x"}, Mode: 0o600, ModeExplicit: true, Backup: true, OnFull: "wait", WaitLimit: defaultWaitLimit, MaxStores: defaultMaxStores}
	}},
	{"--tpmstate dir=x,max-stores-per-minute=0", func(c *Config) { c.State.Location, c.State.MaxStores = nv.Location{Kind: nv.Directory, Path: "x"}, 0 }},
	{"--tpmstate dir=x,durability=relaxed", func(c *Config) { c.State.Location, c.State.Relaxed = nv.Location{Kind: nv.Directory, Path: "x"}, true }},
	{"--tpmstate dir=x,on-full=fail", func(c *Config) { c.State.Location, c.State.OnFull = nv.Location{Kind: nv.Directory, Path: "x"}, "fail" }},
	{"--tpmstate dir=x,wait-limit=none", func(c *Config) { c.State.Location, c.State.WaitLimit = nv.Location{Kind: nv.Directory, Path: "x"}, 0 }},
	{"--tpmstate dir=x,on-full=wait,wait-limit=2m30s", func(c *Config) {
		c.State.Location, c.State.WaitLimit = nv.Location{Kind: nv.Directory, Path: "x"}, 150*time.Second
	}},
	{"--tpmstate backend-uri=file://x,mode=0600", func(c *Config) {
		c.State = State{Location: nv.Location{Kind: nv.File, Path: "x"}, Mode: 0o600, ModeExplicit: true, OnFull: "wait", WaitLimit: defaultWaitLimit, MaxStores: defaultMaxStores}
	}},
	{"--tpmstate lock,backend-uri=file://x,backup,fsync", func(c *Config) {
		c.State = State{Location: nv.Location{Kind: nv.File, Path: "x"}, Mode: 0o640, Lock: true, Backup: true, OnFull: "wait", WaitLimit: defaultWaitLimit, MaxStores: defaultMaxStores}
	}},
	{"--tpmstate backend-uri=file://x,dir=y", func(c *Config) { c.State.Location = nv.Location{Kind: nv.Directory, Path: "y"} }},
	{"--tpmstate backend-uri=foo://x", func(c *Config) { c.State.Location = nv.Location{Kind: nv.Unsupported, Path: "foo://x"} }},
	{"--key file=k", func(c *Config) { c.Key = Key{Source: KeyFile, Path: "k", FD: -1, Hex: true, Bits: 128} }},
	{"--key file=k,kdf=foo", func(c *Config) { c.Key = Key{Source: KeyFile, Path: "k", FD: -1, Hex: true, Bits: 128} }},
	{"--key pwdfile=p,fd=5,format=binary,mode=aes-256-cbc,remove", func(c *Config) {
		c.Key = Key{Source: KeyFD, FD: 5, Bits: 256}
	}},
	{"--key pwdfile=p,fd=-1,remove=1,kdf=sha512", func(c *Config) {
		c.Key = Key{Source: PassFile, Path: "p", FD: -1, KDF: "sha512", Bits: 128, Remove: true}
	}},
	{"--migration-key pwdfd=7,mode=aes-cbc", func(c *Config) {
		c.MigrationKey = Key{Source: PassFD, FD: 7, KDF: "pbkdf2", Bits: 128}
	}},
	{"--log file=-", func(c *Config) { c.Log = Log{Given: true, File: "-", FD: -1, Level: 1} }},
	{"--log file=l,level=0,truncate --log fd=5,level=20,prefix=x", func(c *Config) {
		c.Log = Log{Given: true, File: "", FD: 5, Level: 20, Prefix: "x"}
	}},
	{"--log fd=-5", func(c *Config) { c.Log = Log{Given: true, FD: -1, Level: 1} }},
	{"--pid file=p,fd=77", func(c *Config) { c.PID.File = "p" }},
	{"--locality reject-locality-4,allow-set-locality=false", func(c *Config) { c.Locality.RejectLocality4 = true }},
	{"--fla startup-clear", func(c *Config) { c.Flags = Flags{NotNeedInit: true, Startup: "clear"} }},
	{"--flags startup-none,startup-state,startup-clear", func(c *Config) { c.Flags = Flags{NotNeedInit: true, Startup: "clear"} }},
	{"--flags startup-deactivated,startup-state", func(c *Config) { c.Flags = Flags{NotNeedInit: true, Startup: "state"} }},
	{"--flags startup-none", func(c *Config) { c.Flags = Flags{Startup: "none"} }},
	{"--flags startup-clear=false", func(*Config) {}},
	{"--flags not-need-init,disable-auto-shutdown", func(c *Config) { c.Flags = Flags{NotNeedInit: true, DisableAutoShutdown: true} }},
	{"--flags not-need-init=0,startup-clear", func(c *Config) { c.Flags = Flags{NotNeedInit: true, Startup: "clear"} }},
	{"--migration release-lock-outgoing,incoming", func(c *Config) { c.Migration.Incoming = true }},
	{"--migration incoming --migration release-lock-outgoing", func(*Config) {}},
	{"--migration release-lock-outgoing=false,incoming=no", func(c *Config) { c.Migration.ReleaseLockOutgoing = false }},
	{"--migration encrypted-only --migration-key fd=5", func(c *Config) {
		c.Migration.EncryptedOnly, c.MigrationKey = true, Key{Source: KeyFD, FD: 5, Hex: true, Bits: 128}
	}},
	{"--chr a -R /b", func(c *Config) { c.Sandbox.Chroot = "/b" }},
	{"--server type=unixio,path=s,uid=no-such,gid=4 -R r --ctrl type=unixio,path=c,gid=nobody-there", func(c *Config) {
		c.Sandbox.Chroot = "r"
		c.Interface.Server, c.Control.Listen = classicUnixAt("s"), classicUnixAt("c")
		c.Interface.Server.User, c.Interface.Server.GID, c.Control.Listen.Group = "no-such", 4, "nobody-there"
	}},
	{"-R r --server port=5,uid=no-such", func(c *Config) { c.Sandbox.Chroot, c.Interface.Server = "r", classicTCP("127.0.0.1", 5) }},
	{"-r tss --runas 0", func(c *Config) { c.Sandbox.User = "0" }},
	{"--tpm2 --print-c --ctrl zz -t --log level=3", func(c *Config) {
		c.TPM, c.PrintCapabilities, c.Interface.Terminate = tpm.V20, true, true
		c.Log = Log{Given: true, FD: -1, Level: 3}
	}},
	{"--tpm2 --print-states --tpmstate dir=s --ctrl type=tcp,port=5 --key zz", func(c *Config) {
		c.TPM, c.PrintStates, c.State.Location = tpm.V20, true, nv.Location{Kind: nv.Directory, Path: "s"}
		c.Control.Listen = classicTCP("127.0.0.1", 5)
	}},
	{"--print-profiles --tpmstate zz -p 5", func(c *Config) {
		c.PrintProfiles, c.Interface.Server, c.Interface.Disconnect = true, classicTCP("127.0.0.1", 5), true
	}},
	{"--print-info 0x20 --tpmstate dir=s", func(c *Config) { c.PrintInfo, c.State.Location = 0x20, nv.Location{Kind: nv.Directory, Path: "s"} }},
	{"--print-info 010 --print-info -1", func(c *Config) { c.PrintInfo = 1<<32 - 1 }},
	{"--print-info=4294967297", func(c *Config) { c.PrintInfo = 1 }},
	{"--print-info=", func(*Config) {}},
}

// TestClassic checks the Config that command lines give.
func TestClassic(t *testing.T) {

	for _, tt := range classicCases {
		got, err := Classic("socket", strings.Fields(tt.args), noEnv)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		if diff := cmp.Diff(with(tt.want), got); diff != "" {
			t.Errorf("%s: -want +got\n%s", tt.args, diff)
		}
	}
}

// TestEnvironment checks TPM_PORT, TPM_PATH and POSIXLY_CORRECT.
func TestEnvironment(t *testing.T) {
	for _, tt := range []struct {
		port, args string
		want       int
		err        string
	}{
		{"5x", "--server type=tcp", 5, ""},
		{" 7", "--server disconnect", 7, ""},
		{"0x10", "--server type=tcp", 0, ""},
		{"65535", "--server type=tcp", 65535, ""},
		{"9", "--server port=8", 8, ""},
		{"9", "-p 8", 8, ""},
		{"abc", "--server type=tcp", 0, "swtpm: No valid port number provided for TCP socket. Give a port from 0 to 65535 with port=, --port or TPM_PORT."},
		{"-1", "--server type=tcp", 0, "swtpm: No valid port number provided for TCP socket. Give a port from 0 to 65535 with port=, --port or TPM_PORT."},
		{"9", "--server port=-1", 0, "swtpm: No valid port number provided for TCP socket. Give a port from 0 to 65535 with port=, --port or TPM_PORT."},
		{"65536", "--server type=tcp", 0, "swtpm: TCP socket port outside valid range; 65536 is not between 0 and 65535"},
		{"9", "--ctrl type=tcp", 0, "swtpm: Missing port and fd options for TCP control channel"},
	} {
		env := func(name string) string { return map[string]string{"TPM_PORT": tt.port}[name] }
		c, err := Classic("socket", strings.Fields(tt.args), env)
		if errText(err) != tt.err {
			t.Errorf("TPM_PORT=%q %s: %v, want %s", tt.port, tt.args, err, tt.err)
		} else if err == nil && c.Interface.Server.Port != tt.want {
			t.Errorf("TPM_PORT=%q %s: port %d, want %d", tt.port, tt.args, c.Interface.Server.Port, tt.want)
		}
	}
	env := func(name string) string { return map[string]string{"TPM_PATH": "/st", "POSIXLY_CORRECT": "1"}[name] }
	c, err := Classic("socket", nil, env)
	if err != nil || c.State != (State{Location: nv.Location{Kind: nv.Directory, Path: "/st"}, Mode: 0o640, Lock: true, OnFull: "wait", WaitLimit: defaultWaitLimit, MaxStores: defaultMaxStores}) {
		t.Errorf("TPM_PATH: %+v, %v", c, err)
	}
	c, err = Classic("socket", []string{"--tpmstate", "dir=x"}, env)
	if err != nil || c.State.Location.String() != "dir://x" {
		t.Errorf("TPM_PATH and --tpmstate: %+v, %v", c, err)
	}
	if _, err := Classic("socket", []string{"foo", "-h"}, env); errText(err) != "swtpm: Unknown parameter 'foo'" {
		t.Errorf("POSIXLY_CORRECT: %v", err)
	}
}

// TestDescriptors checks the messages about inherited descriptors.
func TestDescriptors(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(t.TempDir() + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	sock, dev, reg := strconv.Itoa(pair[0]), strconv.Itoa(int(null.Fd())), strconv.Itoa(int(file.Fd()))
	for _, tt := range []struct{ args, want string }{
		{"-f " + reg, "swtpm: Given file descriptor type is not supported."},
		{"-f " + strconv.Itoa(int(dir.Fd())), "swtpm: Given file descriptor type is not supported."},
		{"-f " + dev, ""},
		{"-f " + sock, ""},
		{"-f 0 zz", "swtpm: Unknown parameter 'zz'"},
		{"--server fd=" + dev, "swtpm: Bad filedescriptor " + dev + " for TCP socket; let the program that starts this one pass a socket as " + dev},
		{"--ctrl type=unixio,fd=" + reg, "swtpm: Bad filedescriptor " + reg + " for UnixIO control channel; let the program that starts this one pass a socket as " + reg},
		{"--ctrl type=unixio,clientfd=" + sock, ""},
		{"--pid fd=" + dev, "swtpm: Bad filedescriptor " + dev + " for pid file; let the program that starts this one pass a regular file as " + dev},
		{"--pid fd=" + reg, ""},
	} {
		if _, err := Classic("socket", strings.Fields(tt.args), noEnv); errText(err) != tt.want {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
	testDescriptorFields(t, pair[0])
}

// testDescriptorFields checks the fields that a connected socket fills.
func testDescriptorFields(t *testing.T, fd int) {
	sock := strconv.Itoa(fd)
	for _, tt := range []struct {
		args string
		want Interface
	}{
		{"-f " + sock, Interface{Type: "socket", Terminate: true}},
		{"-p 5 -f " + sock, Interface{Type: "socket", Terminate: true}},
		{"--server fd=" + sock, Interface{Type: "socket", Terminate: true}},
		{"--server fd=" + sock + ",disconnect,port=5", Interface{Type: "socket", Terminate: true, Disconnect: true}},
	} {
		c, err := Classic("socket", strings.Fields(tt.args), noEnv)
		if err != nil {
			t.Fatal(err)
		}
		tt.want.Server = Endpoint{Kind: ConnFD, FD: fd, Mode: 0o770, UID: -1, GID: -1}
		if diff := cmp.Diff(tt.want, c.Interface); diff != "" {
			t.Errorf("%s: -want +got\n%s", tt.args, diff)
		}
	}
	c, err := Classic("socket", []string{"--server", "type=unixio,path=x,fd=" + sock}, noEnv)
	if err != nil || c.Interface.Server.Kind != ListenFD || c.Interface.Server.Path != "" || c.Interface.Terminate {
		t.Errorf("unixio,fd: %+v, %v, want a listening socket", c, err)
	}
}

// TestLowDescriptors checks that 0, 1 and 2 are never a channel of --fd. They may be
// anything in a test, so the check itself is called.
func TestLowDescriptors(t *testing.T) {
	for fd := range 3 {
		l := line{cfg: defaults(), given: map[string]string{"server": "zz"}, fd: fd, env: noEnv}
		if err := l.finish(nil); errText(err) != "Error: Cannot accept file descriptors with values 0, 1, or 2" {
			t.Errorf("fd %d: %v", fd, err)
		}
	}
}
