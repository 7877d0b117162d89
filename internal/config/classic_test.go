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

// TestParserMessages checks the messages of the GNU C library's parser and their order,
// as swtpm 0.7.1 prints them. The usage follows them.
func TestParserMessages(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--bogus"}, "socket: unrecognized option '--bogus'"},
		{[]string{"--bogus=3"}, "socket: unrecognized option '--bogus=3'"},
		{[]string{"--port"}, "socket: option '--port' requires an argument"},
		{[]string{"--por"}, "socket: option '--port' requires an argument"},
		{[]string{"--key"}, "socket: option '--key' requires an argument"},
		{[]string{"--tpm2=1"}, "socket: option '--tpm2' doesn't allow an argument"},
		{[]string{"--h=1"}, "socket: option '--help' doesn't allow an argument"},
		{[]string{"-x"}, "socket: invalid option -- 'x'"},
		{[]string{"-tx"}, "socket: invalid option -- 'x'"},
		{[]string{"-t=1"}, "socket: invalid option -- '='"},
		{[]string{"-?"}, "socket: invalid option -- '?'"},
		{[]string{"-\xc3\xa9"}, "socket: invalid option -- '\xc3'"},
		{[]string{"-tp"}, "socket: option requires an argument -- 'p'"},
		{[]string{"--s=1"}, "socket: option '--s=1' is ambiguous; possibilities: '--server' '--seccomp'"},
		{[]string{"--l", "zz"}, "socket: option '--l' is ambiguous; possibilities: '--locality' '--log'"},
		{[]string{"--t"}, "socket: option '--t' is ambiguous; possibilities: '--terminate' '--tpmstate' '--tpm2'"},
		{[]string{"--tpm"}, "socket: option '--tpm' is ambiguous; possibilities: '--tpmstate' '--tpm2'"},
		{[]string{"--c=1"}, "socket: option '--c=1' is ambiguous; possibilities: '--chroot' '--ctrl'"},
		{[]string{"foo", "--bogus", "-h"}, "socket: unrecognized option '--bogus'"},
		{[]string{"--log", "zz", "--bogus"}, "socket: unrecognized option '--bogus'"},
	} {
		_, err := Classic("socket", tt.args, noEnv)
		var u *UsageError
		if !errors.As(err, &u) || u.Error() != tt.want || u.Code != 1 || u.Usage != Usage("socket") {
			t.Errorf("%q: %v, want %s and the usage", tt.args, err, tt.want)
		}
	}
}

// TestMessages checks the complaints of the reference itself.
func TestMessages(t *testing.T) {
	long := strings.Repeat("a", 108)
	for _, tt := range []struct{ args, want string }{
		{"foo", "swtpm: Unknown parameter 'foo'"},
		{"-- --tpm2", "swtpm: Unknown parameter '--tpm2'"},
		{"-", "swtpm: Unknown parameter '-'"},
		{"foo --log zz", "swtpm: Unknown parameter 'foo'"},
		{"-p abc", "swtpm: Cannot parse socket port number 'abc'."},
		{"-p5x", "swtpm: Cannot parse socket port number '5x'."},
		{"-p -1", "swtpm: Cannot parse socket port number '-1'."},
		{"-p 08", "swtpm: Cannot parse socket port number '08'."},
		{"-p 0b1", "swtpm: Cannot parse socket port number '0b1'."},
		{"-p 1_0", "swtpm: Cannot parse socket port number '1_0'."},
		{"-p 4294967296", "swtpm: Cannot parse socket port number '4294967296'."},
		{"-p 4294967295", "swtpm: Port is outside valid range."},
		{"-p 0x10000", "swtpm: Port is outside valid range."},
		{"--print-info x", "swtpm: Cannot parse info value 'x'."},
		{"--print-info 08", "swtpm: Cannot parse info value '08'."},
		{"--print-info - --help", "swtpm: Cannot parse info value '-'."},
		{"--print-info 99999999999999999999", "swtpm: Cannot parse info value '99999999999999999999'."},
		{"--print-states", "swtpm: Error: --tpmstate option is required for --print-states"},
		{"--print-states --tpmstate mode=0600", "swtpm: The dir or backend-uri parameters is required for the tpmstate option."},
		{"--print-states --ctrl zz", "swtpm: Error parsing ctrl options: Unknown option 'zz'; to name a path write type=unixio,path=zz"},
		{"--chroot=", "swtpm: chroot failed: No such file or directory"},
		{"-R /x --ctrl type=unixio,path=c,uid=99999999999", "swtpm: Error parsing ctrl options: uid 99999999999 outside valid range"},
		{"-f abc", "swtpm: Cannot parse socket file descriptor."},
		{"-f -1", "swtpm: Cannot parse socket file descriptor."},
		{"-f 0x0", "swtpm: Cannot parse socket file descriptor."},
		{"-f 99999999999", "swtpm: Cannot parse socket file descriptor."},
		{"-f 2147483647", "swtpm: Cannot stat file descriptor: Bad file descriptor"},
		{"--server foo", "swtpm: Error parsing server options: Unknown option 'foo'; to name a path write type=unixio,path=foo"},
		{"--server=", "swtpm: Error parsing server options: Unknown option ''"},
		{"--server type=", "swtpm: Error parsing server options: Unknown option 'type='"},
		{"--server type=tcp,clientfd=1", "swtpm: Error parsing server options: Unknown option 'clientfd=1'"},
		{"--server port=5,foo=1", "swtpm: Error parsing server options: Unknown option 'foo=1'"},
		{"--server type", "swtpm: Unsupported socket type: true; want unixio or tcp"},
		{"--server type=foo", "swtpm: Unsupported socket type: foo; want unixio or tcp"},
		{"--server port", "swtpm: Error parsing server options: invalid number 'true'; port takes a whole number"},
		{"--server port=1,port=abc", "swtpm: Error parsing server options: invalid number 'abc'; port takes a whole number"},
		{"--server port=-1", "swtpm: No valid port number provided for TCP socket."},
		{"--server type=tcp", "swtpm: No valid port number provided for TCP socket."},
		{"--server fd=-1", "swtpm: No valid port number provided for TCP socket."},
		{"--server port=65536", "swtpm: TCP socket port outside valid range"},
		{"--server port=1,bindaddr=foo", "swtpm: Could not parse the bind address 'foo'; want an IP address, such as 127.0.0.1 or ::1"},
		{"--server port=1,bindaddr=zz::1", "swtpm: Could not parse the bind address 'zz::1'; want an IP address, such as 127.0.0.1 or ::1"},
		{"--server port=1,bindaddr=fe80::1%lo", "swtpm: Could not parse the bind address 'fe80::1%lo'; want an IP address, such as 127.0.0.1 or ::1"},
		{"--server port=1,bindaddr=fe80::1", "swtpm: Missing interface name for link local address"},
		{"--server fd=2147483647", "swtpm: Bad filedescriptor 2147483647 for TCP socket"},
		{"--server type=unixio,fd=2147483647", "swtpm: Bad filedescriptor 2147483647 for UnixIO control channel"},
		{"--server type=unixio", "swtpm: Missing path and file descriptor option for UnixIO socket"},
		{"--server type=unixio,path=" + long, `swtpm: Path for UnioIO socket is too long: "` + long + `" has 108 bytes, the limit is 107; choose a shorter path, or a relative one`},
		{"--server type=unixio,path=s,mode=888", "swtpm: Error parsing server options: invalid mode type '888'; mode takes an octal mode, such as 0640"},
		{"--server type=unixio,path=s,uid=no-such", "swtpm: Error parsing server options: User 'no-such' does not exist."},
		{"--server type=unixio,path=s,gid=no-such", "swtpm: Error parsing server options: Group 'no-such' does not exist."},
		{"--server path={a,b", "swtpm: Error parsing server options: Unterminated JSON map."},
		{"--server path={a}x,type=unixio", "swtpm: Error parsing server options: Unexpected character following JSON map."},
		{"--ctrl path=s", "swtpm: Missing type parameter for control channel"},
		{"--ctrl type=foo", "swtpm: Unsupported control channel type: foo; want unixio or tcp"},
		{"--ctrl type=unixio", "swtpm: Missing path and fd options for UnixIO control channel"},
		{"--ctrl type=tcp", "swtpm: Missing port and fd options for TCP control channel"},
		{"--ctrl type=tcp,port=-1", "swtpm: Missing port and fd options for TCP control channel"},
		{"--ctrl type=tcp,port=65536", "swtpm: TCP control channel port outside valid range"},
		{"--ctrl type=tcp,clientfd=7", "swtpm: Missing port and fd options for TCP control channel"},
		{"--ctrl type=tcp,port=1,bindaddr=fe80::1", "swtpm: Missing interface name for link local address"},
		{"--ctrl type=unixio,fd=2147483647", "swtpm: Bad filedescriptor 2147483647 for UnixIO control channel"},
		{"--ctrl type=unixio,clientfd=2147483647", "swtpm: Bad filedescriptor 2147483647 for UnixIO client control channel"},
		{"--ctrl type=tcp,fd=2147483647", "swtpm: Bad filedescriptor 2147483647 for TCP control channel"},
		{"--ctrl type=unixio,disconnect", "swtpm: Error parsing ctrl options: Unknown option 'disconnect'"},
		{"--tpmstate mode=0600", "swtpm: The dir or backend-uri parameters is required for the tpmstate option."},
		{"--tpmstate dir=", "swtpm: Error parsing tpmstate options: Unknown option 'dir='"},
		{"--tpmstate dir=s,mode=999", "swtpm: Error parsing tpmstate options: invalid mode type '999'; mode takes an octal mode, such as 0640"},
		{"--tpmstate dir=s,create", "swtpm: Error parsing tpmstate options: Unknown option 'create'; a comma ends the value of dir, here \"s\": choose a path without a comma, or use a profile (swtpm run)"},
		{"--tpmstate dir=/a,b", "swtpm: Error parsing tpmstate options: Unknown option 'b'; a comma ends the value of dir, here \"/a\": choose a path without a comma, or use a profile (swtpm run)"},
		{"--tpmstate backend-uri=file:///a,b", "swtpm: Error parsing tpmstate options: Unknown option 'b'; a comma ends the value of backend-uri, here \"file:///a\": choose a path without a comma, or use a profile (swtpm run)"},
		{"--ctrl type=unixio,path=/a,b", "swtpm: Error parsing ctrl options: Unknown option 'b'; a comma ends the value of path, here \"/a\": choose a path without a comma, or use a profile (swtpm run)"},
		{"--server type=unixio,path=/a,b=c", "swtpm: Error parsing server options: Unknown option 'b=c'; a comma ends the value of path, here \"/a\": choose a path without a comma, or use a profile (swtpm run)"},
		{"--pid file=/a,b", "swtpm: Error parsing pid options: Unknown option 'b'; a comma ends the value of file, here \"/a\": choose a path without a comma, or use a profile (swtpm run)"},
		{"--key pwdfile=/a,,b", "swtpm: Error parsing key options: Unknown option ''; a comma ends the value of pwdfile, here \"/a\": choose a path without a comma, or use a profile (swtpm run)"},
		{"--tpmstate /a", "swtpm: Error parsing tpmstate options: Unknown option '/a'; to name a path write dir=/a"},
		{"--ctrl ./c", "swtpm: Error parsing ctrl options: Unknown option './c'; to name a path write type=unixio,path=./c"},
		{"--ctrl unix:/c", "swtpm: Error parsing ctrl options: Unknown option 'unix:/c'; to name a path write type=unixio,path=/c"},
		{"--key /a", "swtpm: Error parsing key options: Unknown option '/a'; to name a path write file=/a"},
		{"--pcap ./a", "swtpm: Error parsing pcap options: Unknown option './a'; to name a path write file=./a"},
		{"--flags a/b", "swtpm: Error parsing flags options: Unknown option 'a/b'"},
		{"--tpmstate dir=s,durability=none", `swtpm: Unknown durability 'none'. Want "full" or "relaxed".`},
		{"--tpmstate dir=s,on-full=pause", `swtpm: Unknown on-full 'pause'. Want "wait" or "fail".`},
		{"--tpmstate dir=s,wait-limit=90", "swtpm: Error parsing tpmstate options: invalid time span '90'; want 1s to 24h, as 90s or 2m30s, or none"},
		{"--tpmstate dir=s,wait-limit=25h", "swtpm: Error parsing tpmstate options: invalid time span '25h'; want 1s to 24h, as 90s or 2m30s, or none"},
		{"--key format=hex", "swtpm: Either file=, fd=, pwdfile=, or pwdfd= is required for key option"},
		{"--key format=foo", "swtpm: Either file=, fd=, pwdfile=, or pwdfd= is required for key option"},
		{"--migration encrypted-only", "swtpm: The migration option encrypted-only requires --migration-key."},
		{"--key fd=-1", "swtpm: Either file=, fd=, pwdfile=, or pwdfd= is required for key option"},
		{"--migration-key pwdfd=-1", "swtpm: Either file=, fd=, pwdfile=, or pwdfd= is required for key option"},
		{"--key fd=abc", "swtpm: Error parsing key options: invalid number 'abc'; fd takes a whole number"},
		{"--migration-key zz", "swtpm: Error parsing key options: Unknown option 'zz'; to name a path write file=zz"},
		{"--key file=k,format=foo,mode=bar", `swtpm: Unknown key format 'foo'. Want "hex" or "binary".`},
		{"--key pwdfile=k,format=foo", `swtpm: Unknown key format 'foo'. Want "hex" or "binary".`},
		{"--key file=k,mode=foo", "swtpm: Unknown encryption mode 'foo'. Want \"aes-128-cbc\", \"aes-cbc\" or \"aes-256-cbc\"."},
		{"--key pwdfile=k,kdf=foo", `swtpm: Unknown kdf 'foo'. Want "pbkdf2" or "sha512".`},
		{"--key file=k,pdf=sha512", "swtpm: Error parsing key options: Unknown option 'pdf=sha512'; a comma ends the value of file, here \"k\": choose a path without a comma, or use a profile (swtpm run)"},
		{"--log level=abc", "swtpm: Error parsing logging options: invalid number 'abc'; level takes a whole number"},
		{"--log foo", "swtpm: Error parsing logging options: Unknown option 'foo'; to name a path write file=foo"},
		{"--log level=1 --log prefix=a,zz", "swtpm: Error parsing logging options: Unknown option 'zz'"},
		{"--pid fd=-1", "swtpm: The file or fd parameter is required for the pid option."},
		{"--pid fd=2147483647", "swtpm: Bad filedescriptor 2147483647 for pid file"},
		{"--locality foo", "swtpm: Error parsing locality options: Unknown option 'foo'"},
		{"--tpmstate dir=s,on-full=fail,wait-limit=9s", "swtpm: The tpmstate option wait-limit requires on-full=wait."},
		{"--tpmstate s1", "swtpm: Error parsing tpmstate options: Unknown option 's1'; to name a path write dir=s1"},
		{"--tpmstate lokc", "swtpm: Error parsing tpmstate options: Unknown option 'lokc'; did you mean \"lock\"?"},
		{"--migration foo", "swtpm: Error parsing migration options: Unknown option 'foo'"},
		{"--migration incoming,", "swtpm: Error parsing migration options: Unknown option ''"},
		{"--flags startup-foo", "swtpm: Error parsing flags options: Unknown option 'startup-foo'; did you mean \"startup-none\"?"},
		// --log applies to the options after it.
		{"--log level=5 --tpmstate zz", "Error parsing tpmstate options: Unknown option 'zz'; to name a path write dir=zz"},
		{"--log prefix=a --tpmstate zz", "aError parsing tpmstate options: Unknown option 'zz'; to name a path write dir=zz"},
		// Refused for now, but known.
		{"--seccomp action=trap", `swtpm: Unsupported seccomp log action trap; want "kill", "log" or "none"`},
		{"--seccomp action", `swtpm: Unsupported seccomp log action true; want "kill", "log" or "none"`},
		{"--seccomp kill", "swtpm: Error parsing seccomp options: Unknown option 'kill'"},
		{"--pcap file=", "swtpm: Error parsing pcap options: Unknown option 'file='"},
		{"--pcap truncate", "swtpm: The file or fd parameter is required for the pcap option."},
		{"--pcap fd=-1", "swtpm: The file or fd parameter is required for the pcap option."},
		{"--pcap file=x,mode=888", "swtpm: Error parsing pcap options: invalid mode type '888'; mode takes an octal mode, such as 0640"},
	} {
		_, err := Classic("socket", strings.Fields(tt.args), noEnv)
		var u *UsageError
		if !errors.As(err, &u) || u.Error() != tt.want || u.Code != 1 || u.Usage != "" {
			t.Errorf("%s: %v, want %s", tt.args, err, tt.want)
		}
	}
}

// TestOrder checks that of many mistakes the same one is reported as by the reference.
func TestOrder(t *testing.T) {
	names := []string{"log", "ctrl", "server", "key", "migration-key", "pid", "locality", "tpmstate", "flags", "migration"}
	said := map[string]string{"log": "logging", "migration-key": "key"}
	for i, name := range names {
		var args []string
		for j := len(names) - 1; j >= i; j-- {
			args = append(args, "--"+names[j], "zz")
		}
		word := name
		if said[name] != "" {
			word = said[name]
		}
		_, err := Classic("socket", args, noEnv)
		if want := "swtpm: Error parsing " + word + " options: Unknown option 'zz'"; !strings.HasPrefix(errText(err), want) {
			t.Errorf("%q: %v, want %s", args, err, want)
		}
	}
}

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

func TestClassic(t *testing.T) {
	unixAt := func(path string) Endpoint {
		return Endpoint{Kind: Unix, Path: path, Mode: 0o770, UID: -1, GID: -1, FD: -1}
	}
	tcp := func(addr string, port int) Endpoint {
		return Endpoint{Kind: TCP, Addr: addr, Port: port, Mode: 0o770, UID: -1, GID: -1, FD: -1}
	}
	for _, tt := range []struct {
		args string
		want func(*Config)
	}{
		{"", func(*Config) {}},
		{"--", func(*Config) {}},
		{"--tpm2 -d", func(c *Config) { c.TPM, c.Daemon = tpm.V20, true }},
		{"-td", func(c *Config) { c.Interface.Terminate, c.Daemon = true, true }},
		{"-tp2321", func(c *Config) {
			c.Interface = Interface{Type: "socket", Server: tcp("127.0.0.1", 2321), Disconnect: true, Terminate: true}
		}},
		{"-p 0x911", func(c *Config) { c.Interface.Server, c.Interface.Disconnect = tcp("127.0.0.1", 2321), true }},
		{"--port=010", func(c *Config) { c.Interface.Server, c.Interface.Disconnect = tcp("127.0.0.1", 8), true }},
		{"-p 5 --server type=unixio,path=s", func(c *Config) { c.Interface.Server = unixAt("s") }},
		{"--server type=unixio,path=s -p 5", func(c *Config) { c.Interface.Server, c.Interface.Disconnect = tcp("127.0.0.1", 5), true }},
		{"-p 5 --server type=tcp", func(c *Config) { c.Interface.Server = tcp("127.0.0.1", 5) }}, // -p sets TPM_PORT
		{"--server port=5,bindaddr=::1,disconnect", func(c *Config) { c.Interface.Server, c.Interface.Disconnect = tcp("::1", 5), true }},
		{"--server port=5,bindaddr=fe80::1,ifname=eth0", func(c *Config) {
			c.Interface.Server = tcp("fe80::1", 5)
			c.Interface.Server.IfName = "eth0"
		}},
		{"--server port=5,ifname=eth0,mode=0600,uid=3", func(c *Config) { c.Interface.Server = tcp("127.0.0.1", 5) }},
		{"--server type=unixio,path=s,mode=0600,uid=3,gid=4", func(c *Config) {
			c.Interface.Server = unixAt("s")
			c.Interface.Server.Mode, c.Interface.Server.UID, c.Interface.Server.GID = 0o600, 3, 4
		}},
		{"--server type=unixio,path", func(c *Config) { c.Interface.Server = unixAt("true") }},
		{"--server path={a},type=unixio", func(c *Config) { c.Interface.Server = unixAt("{a}") }},
		{"--ctrl type=unixio,path=c,mode=0600,terminate", func(c *Config) {
			c.Control = Control{Listen: unixAt("c"), Terminate: true}
			c.Control.Listen.Mode = 0o600
		}},
		{"--ctrl type=tcp,port=0,bindaddr=0.0.0.0", func(c *Config) { c.Control.Listen = tcp("0.0.0.0", 0) }},
		{"--ctrl type=unixio,path=a --ctrl type=unixio,path=b", func(c *Config) { c.Control.Listen = unixAt("b") }},
		{"--tpmstate dir=st", func(c *Config) { c.State.Location = nv.Location{Kind: nv.Directory, Path: "st"} }},
		{"--tpmstate backend-uri=dir://st,dir=x,mode=0600,lock=false,backup,fsync", func(c *Config) {
			c.State = State{Location: nv.Location{Kind: nv.Directory, Path: "x"}, Mode: 0o600, ModeExplicit: true, Backup: true, OnFull: "wait", WaitLimit: DefaultWaitLimit, MaxStores: DefaultMaxStores}
		}},
		{"--tpmstate dir=x,max-stores-per-minute=0", func(c *Config) { c.State.Location, c.State.MaxStores = nv.Location{Kind: nv.Directory, Path: "x"}, 0 }},
		{"--tpmstate dir=x,durability=relaxed", func(c *Config) { c.State.Location, c.State.Relaxed = nv.Location{Kind: nv.Directory, Path: "x"}, true }},
		{"--tpmstate dir=x,on-full=fail", func(c *Config) { c.State.Location, c.State.OnFull = nv.Location{Kind: nv.Directory, Path: "x"}, "fail" }},
		{"--tpmstate dir=x,wait-limit=none", func(c *Config) { c.State.Location, c.State.WaitLimit = nv.Location{Kind: nv.Directory, Path: "x"}, 0 }},
		{"--tpmstate dir=x,on-full=wait,wait-limit=2m30s", func(c *Config) {
			c.State.Location, c.State.WaitLimit = nv.Location{Kind: nv.Directory, Path: "x"}, 150*time.Second
		}},
		{"--tpmstate backend-uri=file://x,mode=0600", func(c *Config) {
			c.State = State{Location: nv.Location{Kind: nv.File, Path: "x"}, Mode: 0o600, ModeExplicit: true, OnFull: "wait", WaitLimit: DefaultWaitLimit, MaxStores: DefaultMaxStores}
		}},
		{"--tpmstate lock,backend-uri=file://x,backup,fsync", func(c *Config) {
			c.State = State{Location: nv.Location{Kind: nv.File, Path: "x"}, Mode: 0o640, Lock: true, Backup: true, OnFull: "wait", WaitLimit: DefaultWaitLimit, MaxStores: DefaultMaxStores}
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
			c.Interface.Server, c.Control.Listen = unixAt("s"), unixAt("c")
			c.Interface.Server.User, c.Interface.Server.GID, c.Control.Listen.Group = "no-such", 4, "nobody-there"
		}},
		{"-R r --server port=5,uid=no-such", func(c *Config) { c.Sandbox.Chroot, c.Interface.Server = "r", tcp("127.0.0.1", 5) }},
		{"-r tss --runas 0", func(c *Config) { c.Sandbox.User = "0" }},
		{"--tpm2 --print-c --ctrl zz -t --log level=3", func(c *Config) {
			c.TPM, c.PrintCapabilities, c.Interface.Terminate = tpm.V20, true, true
			c.Log = Log{Given: true, FD: -1, Level: 3}
		}},
		{"--tpm2 --print-states --tpmstate dir=s --ctrl type=tcp,port=5 --key zz", func(c *Config) {
			c.TPM, c.PrintStates, c.State.Location = tpm.V20, true, nv.Location{Kind: nv.Directory, Path: "s"}
			c.Control.Listen = tcp("127.0.0.1", 5)
		}},
		{"--print-profiles --tpmstate zz -p 5", func(c *Config) {
			c.PrintProfiles, c.Interface.Server, c.Interface.Disconnect = true, tcp("127.0.0.1", 5), true
		}},
		{"--print-info 0x20 --tpmstate dir=s", func(c *Config) { c.PrintInfo, c.State.Location = 0x20, nv.Location{Kind: nv.Directory, Path: "s"} }},
		{"--print-info 010 --print-info -1", func(c *Config) { c.PrintInfo = 1<<32 - 1 }},
		{"--print-info=4294967297", func(c *Config) { c.PrintInfo = 1 }},
		{"--print-info=", func(*Config) {}},
	} {
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
		{"abc", "--server type=tcp", 0, "swtpm: No valid port number provided for TCP socket."},
		{"-1", "--server type=tcp", 0, "swtpm: No valid port number provided for TCP socket."},
		{"9", "--server port=-1", 0, "swtpm: No valid port number provided for TCP socket."},
		{"65536", "--server type=tcp", 0, "swtpm: TCP socket port outside valid range"},
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
	if err != nil || c.State != (State{Location: nv.Location{Kind: nv.Directory, Path: "/st"}, Mode: 0o640, Lock: true, OnFull: "wait", WaitLimit: DefaultWaitLimit, MaxStores: DefaultMaxStores}) {
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
		{"--server fd=" + dev, "swtpm: Bad filedescriptor " + dev + " for TCP socket"},
		{"--ctrl type=unixio,fd=" + reg, "swtpm: Bad filedescriptor " + reg + " for UnixIO control channel"},
		{"--ctrl type=unixio,clientfd=" + sock, ""},
		{"--pid fd=" + dev, "swtpm: Bad filedescriptor " + dev + " for pid file"},
		{"--pid fd=" + reg, ""},
	} {
		if _, err := Classic("socket", strings.Fields(tt.args), noEnv); errText(err) != tt.want {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
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
		tt.want.Server = Endpoint{Kind: ConnFD, FD: pair[0], Mode: 0o770, UID: -1, GID: -1}
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
