package config

import (
	"errors"
	"strings"
	"testing"
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

var messagesLong = strings.Repeat("a", 108)

// messagesCases are the cases of TestMessages.
var messagesCases = []struct{ args, want string }{
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
	{"-p 4294967295", "swtpm: Port is outside valid range. 4294967295 is not between 0 and 65535."},
	{"-p 0x10000", "swtpm: Port is outside valid range. 65536 is not between 0 and 65535."},
	{"--print-info x", "swtpm: Cannot parse info value 'x'."},
	{"--print-info 08", "swtpm: Cannot parse info value '08'."},
	{"--print-info - --help", "swtpm: Cannot parse info value '-'."},
	{"--print-info 99999999999999999999", "swtpm: Cannot parse info value '99999999999999999999'."},
	{"--print-states", "swtpm: Error: --tpmstate option is required for --print-states"},
	{"--print-states --tpmstate mode=0600", "swtpm: The dir or backend-uri parameters is required for the tpmstate option."},
	{"--print-states --ctrl zz", "swtpm: Error parsing ctrl options: Unknown option 'zz'; to name a path write type=unixio,path=zz"},
	{"--chroot=", "swtpm: chroot failed: No such file or directory"},
	{"-R /x --ctrl type=unixio,path=c,uid=99999999999", "swtpm: Error parsing ctrl options: uid 99999999999 outside valid range"},
	{"-f abc", "swtpm: Cannot parse socket file descriptor. 'abc' is not the number of a descriptor."},
	{"-f -1", "swtpm: Cannot parse socket file descriptor. '-1' is not the number of a descriptor."},
	{"-f 0x0", "swtpm: Cannot parse socket file descriptor. '0x0' is not the number of a descriptor."},
	{"-f 99999999999", "swtpm: Cannot parse socket file descriptor. '99999999999' is not the number of a descriptor."},
	{"-f 2147483647", "swtpm: Cannot stat file descriptor: Bad file descriptor; let the program that starts this one pass descriptor 2147483647"},
	{"--server foo", "swtpm: Error parsing server options: Unknown option 'foo'; to name a path write type=unixio,path=foo"},
	{"--server=", "swtpm: Error parsing server options: Unknown option ''"},
	{"--server type=", "swtpm: Error parsing server options: Unknown option 'type='; type needs a value"},
	{"--server type=tcp,clientfd=1", "swtpm: Error parsing server options: Unknown option 'clientfd=1'"},
	{"--server port=5,foo=1", "swtpm: Error parsing server options: Unknown option 'foo=1'"},
	{"--server type", "swtpm: Unsupported socket type: true; want unixio or tcp"},
	{"--server type=foo", "swtpm: Unsupported socket type: foo; want unixio or tcp"},
	{"--server port", "swtpm: Error parsing server options: invalid number 'true'; port takes a whole number"},
	{"--server port=1,port=abc", "swtpm: Error parsing server options: invalid number 'abc'; port takes a whole number"},
	{"--server port=-1", "swtpm: No valid port number provided for TCP socket. Give a port from 0 to 65535 with port=, --port or TPM_PORT."},
	{"--server type=tcp", "swtpm: No valid port number provided for TCP socket. Give a port from 0 to 65535 with port=, --port or TPM_PORT."},
	{"--server fd=-1", "swtpm: No valid port number provided for TCP socket. Give a port from 0 to 65535 with port=, --port or TPM_PORT."},
	{"--server port=65536", "swtpm: TCP socket port outside valid range; 65536 is not between 0 and 65535"},
	{"--server port=1,bindaddr=foo", "swtpm: Could not parse the bind address 'foo'; want an IP address, such as 127.0.0.1 or ::1"},
	{"--server port=1,bindaddr=zz::1", "swtpm: Could not parse the bind address 'zz::1'; want an IP address, such as 127.0.0.1 or ::1"},
	{"--server port=1,bindaddr=fe80::1%lo", "swtpm: Could not parse the bind address 'fe80::1%lo'; want an IP address, such as 127.0.0.1 or ::1"},
	{"--server port=1,bindaddr=fe80::1", "swtpm: Missing interface name for link local address"},
	{"--server fd=2147483647", "swtpm: Bad filedescriptor 2147483647 for TCP socket; let the program that starts this one pass a socket as 2147483647"},
	{"--server type=unixio,fd=2147483647", "swtpm: Bad filedescriptor 2147483647 for UnixIO control channel; let the program that starts this one pass a socket as 2147483647"},
	{"--server type=unixio", "swtpm: Missing path and file descriptor option for UnixIO socket"},
	{"--server type=unixio,path=" + messagesLong, `swtpm: Path for UnioIO socket is too long: "` + messagesLong + `" has 108 bytes, the limit is 107; choose a shorter path, or a relative one`},
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
	{"--ctrl type=tcp,port=65536", "swtpm: TCP control channel port outside valid range; 65536 is not between 0 and 65535"},
	{"--ctrl type=tcp,clientfd=7", "swtpm: Missing port and fd options for TCP control channel"},
	{"--ctrl type=tcp,port=1,bindaddr=fe80::1", "swtpm: Missing interface name for link local address"},
	{"--ctrl type=unixio,fd=2147483647", "swtpm: Bad filedescriptor 2147483647 for UnixIO control channel; let the program that starts this one pass a socket as 2147483647"},
	{"--ctrl type=unixio,clientfd=2147483647", "swtpm: Bad filedescriptor 2147483647 for UnixIO client control channel; let the program that starts this one pass a socket as 2147483647"},
	{"--ctrl type=tcp,fd=2147483647", "swtpm: Bad filedescriptor 2147483647 for TCP control channel; let the program that starts this one pass a socket as 2147483647"},
	{"--ctrl type=unixio,disconnect", "swtpm: Error parsing ctrl options: Unknown option 'disconnect'"},
	{"--tpmstate mode=0600", "swtpm: The dir or backend-uri parameters is required for the tpmstate option."},
	{"--tpmstate dir=", "swtpm: Error parsing tpmstate options: Unknown option 'dir='; dir needs a value"},
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
	{"--pid fd=2147483647", "swtpm: Bad filedescriptor 2147483647 for pid file; let the program that starts this one pass a regular file as 2147483647"},
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
	{"--pcap file=", "swtpm: Error parsing pcap options: Unknown option 'file='; file needs a value"},
	{"--pcap truncate", "swtpm: The file or fd parameter is required for the pcap option."},
	{"--pcap fd=-1", "swtpm: The file or fd parameter is required for the pcap option."},
	{"--pcap file=x,mode=888", "swtpm: Error parsing pcap options: invalid mode type '888'; mode takes an octal mode, such as 0640"},
}

// TestMessages checks the complaints of the reference itself.
func TestMessages(t *testing.T) {

	for _, tt := range messagesCases {
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
