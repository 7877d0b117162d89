package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var mistakesLong = strings.Repeat("a", 200)

// mistakesCases are the cases of TestMistakes.
var mistakesCases = []struct{ src, want string }{
	{`mod = "0600"`, `f:5:1: [tpmstate] mod: unknown key; did you mean "mode"?`},
	{`  "mod" = "0600"`, `f:5:3: [tpmstate] mod: unknown key; did you mean "mode"?`},
	{`xyzzy = 1`, `f:5:1: [tpmstate] xyzzy: unknown key; swtpm.toml(5) lists the keys`},
	{`mode = "0999"`, `f:5:8: [tpmstate] mode: invalid value "0999"; must be an octal mode in quotes, "0000" to "0777"`},
	{`mode = "1777"`, `f:5:8: [tpmstate] mode: invalid value "1777"; must be an octal mode in quotes, "0000" to "0777"`},
	{`mode = 0o600`, `f:5:8: [tpmstate] mode: invalid value 384; must be an octal mode in quotes, "0000" to "0777"`},
	{`lock = "true"`, `f:5:8: [tpmstate] lock: invalid value "true"; must be true or false, without quotes`},
	{`lock = 1`, `f:5:8: [tpmstate] lock: invalid value 1; must be true or false, without quotes`},
	{`lock = []`, `f:5:8: [tpmstate] lock: unexpected array; must be true or false, without quotes`},
	{`lock.x = 1`, `f:5:10: [tpmstate] lock: unexpected table; must be true or false, without quotes`},
	{`file = "/dev/sda"`, `f:5:1: [tpmstate] file: conflicts with dir; write only one of store, file, dir`},
	{`backend-uri = "dir://x"`, `f:5:1: [tpmstate] backend-uri: unknown key; in a profile, write dir = "PATH", file = "PATH" or store = "NAME"`},
	{`durability = "none"`, `f:5:14: [tpmstate] durability: invalid value "none"; must be "full" or "relaxed"`},
	{`on-full = "pause"`, `f:5:11: [tpmstate] on-full: invalid value "pause"; must be "wait" or "fail"`},
	{`wait-limit = 90`, `f:5:14: [tpmstate] wait-limit: invalid value 90; must be a time span from "1s" to "24h", or "none"`},
	{`wait-limit = "1ms"`, `f:5:14: [tpmstate] wait-limit: invalid value "1ms"; must be a time span from "1s" to "24h", or "none"`},
	{"on-full = \"fail\"\nwait-limit = \"9s\"", `f:6:1: [tpmstate] wait-limit: valid only with on-full = "wait"`},
	{"fsync = true\ndurability = \"full\"", `f:5:1: [tpmstate] fsync: conflicts with durability; write only durability = "full" or "relaxed"`},
	{`backup = "a\u0000b"`, `f:5:10: [tpmstate] backup: "a\x00b" contains a NUL byte`},
	{"dir = \"s\"", `f:5:1: Key 'tpmstate.dir' has already been defined.`},
	{`lock = tru`, `f:5:8: expected value but found "tru" instead; strings must be quoted, e.g. mode = "0600"; true and false must not`},
	{`mode = 0600`, `f:5:8: Invalid integer "0600": cannot have leading zeroes; strings must be quoted, e.g. mode = "0600"; true and false must not`},
	{"[tpmstat]\ndir = \"x\"", `f:5:2: [tpmstat]: unknown table; did you mean "tpmstate"?`},
	{"[xyzzy]", `f:5:2: [xyzzy]: unknown table`},
	{"[manufacture]\nek = 1", `f:6:6: [manufacture] ek: invalid value 1; must be an array of "rsa2048", "rsa3072", "rsa4096", "secp256r1", "secp384r1", "secp521r1"`},
	{"[manufacture]\nek = []", `f:6:6: [manufacture] ek: unexpected array; must be an array of "rsa2048", "rsa3072", "rsa4096", "secp256r1", "secp384r1", "secp521r1"`},
	{"[manufacture]\nek = [\"rsa1024\"]", `f:6:6: [manufacture] ek: unknown value "rsa1024"; must be an array of "rsa2048", "rsa3072", "rsa4096", "secp256r1", "secp384r1", "secp521r1"`},
	{"[manufacture]\nek = [\"rsa2048\", \"rsa2048\"]", `f:6:1: [manufacture] ek: duplicate "rsa2048"; write two algorithms`},
	{"[manufacture]\nek = [\"rsa2048\", \"rsa3072\", \"rsa4096\"]", `f:6:1: [manufacture] ek: 3 endorsement keys; write one or two`},
	{"[manufacture]\npcr-banks = [\"sha256,sha1\"]", `f:6:13: [manufacture] pcr-banks: unexpected array; must be an array of "sha1", "sha256", "sha384", "sha512", "sm3-256", "sha3-256", "sha3-384", "sha3-512"`},
	{"[manufacture]\niak = \"secp384r1\"", `f:6:1: [manufacture] iak: valid only with ek-cert = true, because its certificate refers to the EK certificate`},
	{"[manufacture]\ndecryption = true", `f:6:1: [manufacture] decryption: valid only with allow-signing = true`},
	{"[manufacture]\ntake-ownership = true", `f:6:1: [manufacture] take-ownership: valid only with tpm = "1.2"`},
	{"[sandbox]\nchroot = \"/\"\n[manufacture]", `f:6:1: [sandbox] chroot: conflicts with [manufacture], because swtpm-setup creates a TPM outside of it`},
	{"[manufacture]\nekcert = true", `f:6:1: [manufacture] ekcert: unknown key; did you mean "ek-cert"?`},
	{"[[log]]", `f:5:3: [log]: unexpected array; write a table, [log]`},
	{"[key]", `f:5:2: [key]: incomplete; write one of pwdfd, pwdfile, fd, file, credential`},
	{"[key]\nmode = \"aes-256-cbc\"", `f:5:2: [key]: incomplete; write one of pwdfd, pwdfile, fd, file, credential`},
	{"[key]\nfile = \"a\"\nfd = 4", `f:7:1: [key] fd: conflicts with file; write only one of pwdfd, pwdfile, fd, file, credential`},
	{"[key]\npwdfile = \"a\"\nformat = \"hex\"", `f:7:1: [key] format: valid only with file, fd or credential`},
	{"[key]\nfile = \"a\"\nkdf = \"pbkdf2\"", `f:7:1: [key] kdf: valid only with pwdfile or pwdfd`},
	{"[key]\nfd = 4\nremove = true", `f:7:1: [key] remove: valid only with file or pwdfile`},
	{"[key]\nfd = -4", `f:6:6: [key] fd: invalid value -4; must be a whole number from 0 to 2147483647`},
	{"[key]\nfd = 4.0", `f:6:6: [key] fd: unexpected float; must be a whole number from 0 to 2147483647`},
	{"[key]\nfile = \"a\"\nmode = \"aes\"", `f:7:8: [key] mode: invalid value "aes"; must be "aes-128-cbc", "aes-cbc" or "aes-256-cbc"`},
	{"[key]\nfile = \"\"", `f:6:8: [key] file: invalid value ""; must be the path of a file`},
	{"[key]\nfd = 4\n[migration-key]\nfd = 4", `f:8:1: [migration-key] fd: descriptor 4 is already in use as [key] fd`},
	{"[flags]\nstartup = \"deactivated\"", `f:6:1: [flags] startup: a TPM 2.0 cannot start deactivated; write "clear", "state" or "none"`},
	{"[flags]\nstartup-clear = true", `f:6:1: [flags] startup-clear: unknown key; in a profile, write startup = "clear", "state", "deactivated" or "none"`},
	{"[flags]\nstartup = \"cler\"", `f:6:11: [flags] startup: invalid value "cler"; must be "clear", "state", "deactivated" or "none"; did you mean "clear"?`},
	{"[interface]\ntype = \"cuse\"", `f:6:1: [interface] type: missing name; write name = "vtpm0" for /dev/vtpm0`},
	{"[interface]\nport = 5", `f:6:1: [interface] port: unknown key; in a profile, write server = "tcp:HOST:PORT" or "unix:PATH"`},
	{"[interface]\nserver = \"unix:c\"", `f:2:1: [control] listen: unix:/p/c is already the data channel; use another address`},
	{"[interface]\nserver = \"unix:" + mistakesLong + "\"", `f:6:1: [interface] server: path too long for a Unix socket: "/p/` + mistakesLong + `" has 203 bytes, the limit is 107; use a shorter path, such as one in /run`},
	{"[interface]\nserver = \"tcp:localhost:5\"", `f:6:10: [interface] server: "localhost" is not a literal IPv4 or IPv6 address, such as 127.0.0.1 or [::1]; must be ` + addressForms},
	{"[interface]\nserver = \"tcp:5\"", `f:6:10: [interface] server: "5" has no port; must be ` + addressForms},
	{"[interface]\nserver = \"tcp:1.2.3.4:65536\"", `f:6:10: [interface] server: "65536" is not a port from 0 to 65535; must be ` + addressForms},
	{"[interface]\nserver = \"tcp:::1:5\"", `f:6:10: [interface] server: "::1:5": brackets are for an IPv6 address, and only for it; must be ` + addressForms},
	{"[interface]\nserver = \"tcp:[fe80::1]:5\"", `f:6:10: [interface] server: "[fe80::1]:5": a link-local address needs its network interface, as in [fe80::1%eth0]; must be ` + addressForms},
	{"[interface]\nserver = \"fd:-1\"", `f:6:10: [interface] server: invalid file descriptor "-1"; must be ` + addressForms},
	{"[interface]\nserver = \"unix:\"", `f:6:10: [interface] server: missing path; must be ` + addressForms},
	{"[interface]\nserver = \"/run/x\"", `f:6:10: [interface] server: unknown kind of address "/run/x"; must be ` + addressForms},
	{"[interface]\nserver = \"systemd:\"", `f:6:10: [interface] server: invalid socket name ""; must be ` + addressForms},
	{"[interface]\nserver = \"systemd:a:b\"", `f:6:10: [interface] server: invalid socket name "a:b"; must be ` + addressForms},
	{"[interface]\nserver = \"systemd:x\"\nmode = \"0600\"", `f:7:1: [interface] mode: valid only for a socket "unix:PATH"`},
	{"[key]\ncredential = \"a/b\"", `f:6:14: [key] credential: invalid value "a/b"; must be the name of a systemd credential, without a slash`},
	{"[key]\ncredential = \"k\"\nfile = \"a\"", `f:7:1: [key] file: conflicts with credential; write only one of pwdfd, pwdfile, fd, file, credential`},
	{"[key]\ncredential = \"k\"\nremove = true", `f:7:1: [key] remove: valid only with file or pwdfile`},
	{"[interface]\nserver = \"fd:5\"\nmode = \"0600\"", `f:7:1: [interface] mode: valid only for a socket "unix:PATH"`},
	{"[interface]\nserver = \"unix:x\"\nuid = \"no-such-user\"", `f:7:7: [interface] uid: invalid value "no-such-user"; must be the name or number of a user that exists`},
	{"[sandbox]\nseccomp = \"trap\"", `f:6:11: [sandbox] seccomp: invalid value "trap"; must be "kill", "log" or "none"`},
	{"[sandbox]\nlandlock = \"on\"", `f:6:12: [sandbox] landlock: invalid value "on"; must be "best-effort", "require" or "off"`},
	{"[sandbox]\naction = \"log\"", `f:6:1: [sandbox] action: unknown key; swtpm.toml(5) lists the keys`},
	{"[log]\nfile = \"a\"\nfd = 5", `f:7:1: [log] fd: conflicts with file; write only one of file, fd`},
	{"[log]\nlevel = -1", `f:6:9: [log] level: invalid value -1; must be a whole number from 0 to 2147483647`},
	{"[pid]", `f:5:2: [pid]: incomplete; write one of file, fd`},
	{"[pid]\nfil = 1\n\n[log]\nlvel = 1", "f:6:1: [pid] fil: unknown key; did you mean \"file\"?\nf:9:1: [log] lvel: unknown key; did you mean \"level\"?"},
}

// TestMistakes checks errors and their positions, after the 4 lines of small, in [tpmstate].
func TestMistakes(t *testing.T) {

	for _, tt := range mistakesCases {
		c, err := parseProfile("f", small+tt.src, "/p", "vm1")
		if errText(err) != tt.want || c != nil {
			t.Errorf("%s:\n got %v\nwant %s", tt.src, err, tt.want)
		}
	}
}

// TestManufactureMistakes checks errors about a TPM 1.2.
func TestManufactureMistakes(t *testing.T) {
	const tpm12 = "tpm = \"1.2\"\ncontrol.listen = \"unix:c\"\ntpmstate.dir = \"s\"\n[manufacture]\n"
	for _, tt := range []struct{ src, want string }{
		{`ek = ["rsa3072"]`, `f:5:1: [manufacture] ek: a TPM 1.2 has one endorsement key; write ek = ["rsa2048"]`},
		{`ek = ["rsa2048"]`, ""},
		{`spk = "rsa"`, `f:5:1: [manufacture] spk: valid only with tpm = "2.0"`},
		{`pcr-banks = []`, `f:5:1: [manufacture] pcr-banks: valid only with tpm = "2.0"`},
		{`platform-cert = true`, `f:5:1: [manufacture] platform-cert: valid for a TPM 1.2 only with ek-cert = true`},
		{`ownerpass = "x"`, `f:5:1: [manufacture] ownerpass: valid only with take-ownership = true`},
		{`srk-well-known = true`, `f:5:1: [manufacture] srk-well-known: valid only with take-ownership = true`},
		{"take-ownership = true\nownerpass = \"x\"\nowner-well-known = true", `f:6:1: [manufacture] ownerpass: conflicts with owner-well-known; write only one of them`},
		{"take-ownership = true\nownerpass = \"x\"\nsrk-well-known = true\nek-cert = true\nplatform-cert = true", ""},
	} {
		c, err := parseProfile("f", tpm12+tt.src, "/p", "vm1")
		if errText(err) != tt.want && (tt.want != "" || err != nil) || (c == nil) != (err != nil) {
			t.Errorf("%s:\n got %v\nwant %s", tt.src, err, tt.want)
		}
	}
}

// TestManufacture checks the defaults of the subject and of the keys.
func TestManufacture(t *testing.T) {
	for _, tt := range []struct {
		src  string
		want Manufacture
		eks  []string
	}{
		{"", Manufacture{}, []string{"rsa2048", "secp384r1"}},
		{"[manufacture]", Manufacture{Given: true, VMID: "vm1"}, []string{"rsa2048", "secp384r1"}},
		{"[manufacture]\nek = [\"secp521r1\"]\nvmid = \"%i:7\"\nconfig = \"c\"\npcr-banks = []\nwrite-ek-cert-files = \"d\"",
			Manufacture{Given: true, VMID: "vm1:7", EK: "secp521r1", Config: "/p/c", PCRBanks: "-", CertFiles: "/p/d"}, []string{"secp521r1"}},
	} {
		c, err := parseProfile("f", small+tt.src, "/p", "vm1")
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		if diff := cmp.Diff(tt.want, c.Manufacture); diff != "" || !slices.Equal(c.EKs(), tt.eks) {
			t.Errorf("%s: EKs() = %q, want %q; -want +got\n%s", tt.src, c.EKs(), tt.eks, diff)
		}
		again(t, tt.src, c)
	}
}

// TestWholeMistakes checks errors about the whole file.
func TestWholeMistakes(t *testing.T) {
	const st = "[tpmstate]\ndir = \"/s\"\n"
	for _, tt := range []struct{ src, want string }{
		{"", "f: [tpmstate]: missing; write dir = \"PATH\", file = \"PATH\" or store = \"NAME\"\nf: [interface] server: missing; no client could reach this TPM: write [interface] server or [control] listen"},
		{"tpm = \"3\"\n" + st, `f:1:7: tpm: invalid value "3"; must be "1.2" or "2.0"`},
		{"tpn = \"2.0\"\n" + st, `f:1:1: tpn: unknown key; did you mean "tpm"?`},
		{"log = 5\n" + st, `f:1:1: [log]: unexpected integer; write a table, [log]`},
		{"tpm = \"2.0", `f:1:10: unexpected EOF; expected '"'`},
		{st + "[interface]\nserver = \"fd:5\"", `f: [flags] startup: no client could power on this TPM; write startup = "clear" or [control] listen`},
		{st + "[interface]\nserver = \"fd:5\"\n[flags]\nstartup = \"none\"", `f:6:1: [flags] startup: no client could power on this TPM; write startup = "clear" or [control] listen`},
		{st + "[flags]\nstartup = \"clear\"", `f: [interface] server: missing; no client could reach this TPM: write [interface] server or [control] listen`},
		{st + "[interface]\nserver = \"tcp:127.0.0.1:5\"\n[control]\nlisten = \"tcp:127.0.0.1:5\"", `f:6:1: [control] listen: tcp:127.0.0.1:5 is already the data channel; use another address`},
		{st + "[interface]\nserver = \"systemd:x\"\n[control]\nlisten = \"systemd:x\"", `f:6:1: [control] listen: systemd:x is already the data channel; use another address`},
		{st + "[interface]\nserver = \"fd:5\"\n[control]\nlisten = \"fd:5\"", `f:6:1: [control] listen: descriptor 5 is already in use as [interface] server`},
		{"[control]\nlisten = \"fd:3\"\n[tpmstate]\nfile = \"/s\"\nbackup = true\ncreate = true", "f:5:1: [tpmstate] backup: valid only with dir; a file has no backup\nf:6:1: [tpmstate] create: valid only with dir; a file is always created"},
	} {
		c, err := parseProfile("f", tt.src, "/p", "vm1")
		if errText(err) != tt.want || c != nil {
			t.Errorf("%s:\n got %v\nwant %s", tt.src, err, tt.want)
		}
	}
}
