package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

const examples = "../../examples"

func TestExamplesLoad(t *testing.T) {
	files, err := filepath.Glob(examples + "/*.toml")
	if err != nil || len(files) < 5 {
		t.Fatalf("examples: %q, %v, want at least five", files, err)
	}
	for _, file := range files {
		switch filepath.Base(file) {
		case "store.toml", "host.toml": // no profiles: cmd/swtpm-store and TestHostExample read them
			continue
		}
		c, err := LoadProfile(file, "vm1")
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		again(t, file, c)
	}
}

// again checks that the profile that c prints loads to c.
func again(t *testing.T, name string, c *Config) {
	t.Helper()
	got, err := parseProfile(name, c.TOML(), "/elsewhere", "other")
	if err != nil {
		t.Errorf("%s: its own TOML: %v\n%s", name, err, c.TOML())
		return
	}
	if diff := cmp.Diff(c, got); diff != "" {
		t.Errorf("%s: shown and loaded: -want +got\n%s\n%s", name, diff, c.TOML())
	}
}

// TestReference checks that reference.toml has every key, with its default.
func TestReference(t *testing.T) {
	src, err := os.ReadFile(examples + "/reference.toml")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	note := func(list *[]string, table, key string) {
		if s := "[" + table + "] " + key; !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	for _, tb := range defaults().tables() {
		for _, k := range tb.keys.known(profile) {
			note(&want, tb.name, k.name)
		}
	}
	table := ""
	for line := range strings.Lines(string(src)) {
		line = strings.TrimPrefix(line, "# ")
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "["), "]"); ok && line[0] == '[' {
			table = name
			continue
		}
		key, _, ok := strings.Cut(line, "=")
		if key = strings.TrimSpace(key); ok && table != "" && !strings.Contains(key, " ") {
			note(&got, table, key)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys of reference.toml: -want +got\n%s", diff)
	}

	c, err := LoadProfile(examples+"/reference.toml", "vm1")
	if err != nil {
		t.Fatal(err)
	}
	def := defaults()
	def.TPM = tpm.V20
	def.Interface.Server.Kind, def.Interface.Server.Path = Unix, "/run/swtpm/vm1/data.sock"
	def.Control.Listen.Kind, def.Control.Listen.Path = Unix, "/run/swtpm/vm1/ctrl.sock"
	def.State.Location = nv.Location{Kind: nv.Directory, Path: "/var/lib/swtpm/vm1"}
	def.Log.Given = true
	def.Flags.Startup = "none"
	if diff := cmp.Diff(def, c); diff != "" {
		t.Errorf("reference.toml says other than the default: -default +got\n%s", diff)
	}
}

// TestReferenceUncommented checks that the commented keys of reference.toml load, too.
func TestReferenceUncommented(t *testing.T) {
	src, err := os.ReadFile(examples + "/reference.toml")
	if err != nil {
		t.Fatal(err)
	}
	const base = "[control]\nlisten = \"unix:/c\"\n[tpmstate]\ndir = \"/s\"\n"
	table, seen := "", 0
	for line := range strings.Lines(string(src)) {
		body := strings.TrimPrefix(line, "# ")
		if body[0] == '[' {
			table = body[:strings.IndexByte(body, ']')+1]
		}
		if body == line || table == "" || body[0] == '[' || !strings.Contains(body, " = ") {
			continue
		}
		seen++
		top, head := "", table+"\n"
		switch key, _, _ := strings.Cut(body, " "); {
		case table == "[tpmstate]":
			head = ""
		case table == "[control]":
			head = "[tpmstate]\ndir = \"/s\"\n[control]\nlisten = \"unix:/c\"\n"
		case table == "[interface]" && (key == "name" || key == "major" || key == "minor"):
			full := "[tpmstate]\ndir = \"/s\"\n[interface]\ntype = \"cuse\"\nname = \"x\"\n" + body
			if key == "name" {
				full = "[tpmstate]\ndir = \"/s\"\n[interface]\ntype = \"cuse\"\n" + body
			}
			if _, err := parseProfile("reference", full, "/", "vm1"); err != nil {
				t.Errorf("%v\n%s", err, full)
			}
			continue
		case table == "[interface]" && key == "device":
			head += "type = \"chardev\"\n"
		case table == "[interface]" && key != "server":
			head += "server = \"unix:/d\"\n"
		case strings.HasSuffix(table, "key]") && (key == "format" || key == "mode" || key == "remove"):
			head += "file = \"/k\"\n"
		case table == "[profile]" && key == "remove-disabled":
			head += "name = \"custom\"\n"
		case strings.HasSuffix(table, "key]") && key == "kdf":
			head += "pwdfile = \"/k\"\n"
		case table == "[pcap]" && key != "file" && key != "fd":
			head += "file = \"/k\"\n"
		case table == "[metrics]" && key == "interval":
			head += "file = \"/m\"\n"
		case table == "[metrics]" && key != "file" && key != "listen":
			head += "listen = \"unix:/m\"\n"
		case key == "iak" || key == "idevid" || key == "decryption":
			head += "ek-cert = true\nallow-signing = true\n"
		case strings.Contains(line, " # 1.2: "):
			top = "tpm = \"1.2\"\n"
			if key != "take-ownership" {
				head += "take-ownership = true\n"
			}
		}
		full := top + base + head + body
		switch {
		case table == "[control]":
			full = head + body
		case strings.HasPrefix(body, "file ") && table == "[tpmstate]": // instead of dir
			full = strings.Replace(base, "dir = \"/s\"\n", "", 1) + body
		}
		c, err := parseProfile("reference", full, "/", "vm1")
		if err != nil {
			t.Errorf("%v\n%s", err, full)
			continue
		}
		again(t, table+" "+body, c)
	}
	if seen < 25 {
		t.Errorf("%d lines behind a #, want more", seen)
	}
}

const small = `[control]
listen = "unix:c"
[tpmstate]
dir = "s"
`

func TestProfile(t *testing.T) {
	for _, tt := range []struct {
		src  string
		want func(*Config)
	}{
		{"", func(*Config) {}},
		{"mode = \"0600\"", func(c *Config) { c.State.Mode, c.State.ModeExplicit = 0o600, true }},
		{"backup = true\nlock = false\ncreate = true\ndurability = \"relaxed\"", func(c *Config) {
			c.State.Backup, c.State.Lock, c.State.Create, c.State.Relaxed = true, false, true, true
		}},
		{"fsync = false", func(c *Config) { c.State.Relaxed = true }},
		{"[interface]\nserver = \"tcp:[fe80::1%eth0]:0\"\ndisconnect = true", func(c *Config) {
			s := &c.Interface.Server
			s.Kind, s.Addr, s.IfName, c.Interface.Disconnect = TCP, "fe80::1", "eth0", true
		}},
		{"[interface]\nserver = \"tcp:[fe80::1%%i0]:7\"", func(c *Config) {
			s := &c.Interface.Server
			s.Kind, s.Addr, s.IfName, s.Port = TCP, "fe80::1", "i0", 7
		}},
		{"[interface]\nserver = \"clientfd:5\"\nterminate = true", func(c *Config) {
			c.Interface.Server.Kind, c.Interface.Server.FD, c.Interface.Terminate = ConnFD, 5, true
		}},
		{"[interface]\nserver = \"unix:%i/d\"\nuid = 7\ngid = \"root\"\nmode = \"0600\"", func(c *Config) {
			s := &c.Interface.Server
			s.Kind, s.Path, s.UID, s.GID, s.Mode = Unix, "/p/vm1/d", 7, 0, 0o600
		}},
		{"[key]\npwdfd = 0\nkdf = \"sha512\"", func(c *Config) { c.Key = Key{Source: PassFD, KDF: "sha512", Bits: 128} }},
		{"[migration-key]\nfile = \"k\"\nremove = true\nmode = \"aes-cbc\"\nformat = \"binary\"", func(c *Config) {
			c.MigrationKey = Key{Source: KeyFile, Path: "/p/k", FD: -1, Bits: 128, Remove: true}
		}},
		{"[interface]\nserver = \"systemd:data\"", func(c *Config) {
			c.Interface.Server.Kind, c.Interface.Server.Name = Systemd, "data"
		}},
		{"[key]\ncredential = \"%i-key\"\nmode = \"aes-256-cbc\"", func(c *Config) {
			c.Key = Key{Source: KeyCredential, Name: "vm1-key", FD: -1, Hex: true, Bits: 256}
		}},
		{"[migration-key]\ncredential = \"k\"\nformat = \"binary\"", func(c *Config) {
			c.MigrationKey = Key{Source: KeyCredential, Name: "k", FD: -1, Bits: 128}
		}},
		{"[flags]\nstartup = \"state\"\ndisable-auto-shutdown = true", func(c *Config) {
			c.Flags = Flags{NotNeedInit: true, Startup: "state", DisableAutoShutdown: true}
		}},
		{"[log]", func(c *Config) { c.Log.Given = true }},
		{"[log]\nfile = \"-\"\nlevel = 0", func(c *Config) { c.Log.Given, c.Log.File = true, "-" }},
		{"[log]\nfile = \"%%%i%\"\nprefix = \"[%i] \"", func(c *Config) {
			c.Log.Given, c.Log.File, c.Log.Prefix = true, "/p/%vm1%", "[vm1] "
		}},
		{"[pid]\nfd = 9", func(c *Config) { c.PID.FD = 9 }},
		{"[sandbox]\nseccomp = \"log\"", func(c *Config) { c.Sandbox.Seccomp = "log" }},
		{"[sandbox]\nlandlock = \"require\"", func(c *Config) { c.Sandbox.Landlock = "require" }},
		{"[sandbox]\nuser = \"tss\"", func(c *Config) { c.Sandbox.User = "tss" }},
		{"[migration]\nincoming = true", func(c *Config) { c.Migration.Incoming = true }},
		{"[migration]\nrelease-lock-outgoing = false", func(c *Config) { c.Migration.ReleaseLockOutgoing = false }},
		{"[locality]\nreject-locality-4 = true", func(c *Config) { c.Locality.RejectLocality4 = true }},
	} {
		want := defaults()
		want.TPM = tpm.V20
		want.State.Location = nv.Location{Kind: nv.Directory, Path: "/p/s"}
		want.Control.Listen.Kind, want.Control.Listen.Path = Unix, "/p/c"
		tt.want(want)
		got, err := parseProfile("f", small+tt.src, "/p", "vm1")
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", tt.src, diff)
		}
		again(t, tt.src, got)
	}
}

// TestMistakes checks errors and their positions, after the 4 lines of small, in [tpmstate].
func TestMistakes(t *testing.T) {
	long := strings.Repeat("a", 200)
	for _, tt := range []struct{ src, want string }{
		{`mod = "0600"`, `f:5:1: [tpmstate] mod: unknown key; did you mean "mode"?`},
		{`  "mod" = "0600"`, `f:5:3: [tpmstate] mod: unknown key; did you mean "mode"?`},
		{`xyzzy = 1`, `f:5:1: [tpmstate] xyzzy: unknown key`},
		{`mode = "0999"`, `f:5:8: [tpmstate] mode: invalid value "0999"; must be an octal mode in quotes, "0000" to "0777"`},
		{`mode = "1777"`, `f:5:8: [tpmstate] mode: invalid value "1777"; must be an octal mode in quotes, "0000" to "0777"`},
		{`mode = 0o600`, `f:5:8: [tpmstate] mode: invalid value 384; must be an octal mode in quotes, "0000" to "0777"`},
		{`lock = "true"`, `f:5:8: [tpmstate] lock: invalid value "true"; must be true or false, without quotes`},
		{`lock = 1`, `f:5:8: [tpmstate] lock: invalid value 1; must be true or false, without quotes`},
		{`lock = []`, `f:5:8: [tpmstate] lock: unexpected array; must be true or false, without quotes`},
		{`lock.x = 1`, `f:5:10: [tpmstate] lock: unexpected table; must be true or false, without quotes`},
		{`file = "/dev/sda"`, `f:5:1: [tpmstate] file: conflicts with dir; write only one of file, dir`},
		{`backend-uri = "dir://x"`, `f:5:1: [tpmstate] backend-uri: unknown key; in a profile, write dir = "PATH" or file = "PATH"`},
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
		{"[manufacture]\niak = \"secp384r1\"", `f:6:1: [manufacture] iak: valid only with ek-cert = true, whose certificate its own refers to`},
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
		{"[interface]\nserver = \"unix:" + long + "\"", `f:6:1: [interface] server: path too long for a Unix socket: "/p/` + long + `" has 203 bytes, the limit is 107; use a shorter path, such as one in /run`},
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
		{"[sandbox]\naction = \"log\"", `f:6:1: [sandbox] action: unknown key`},
		{"[log]\nfile = \"a\"\nfd = 5", `f:7:1: [log] fd: conflicts with file; write only one of file, fd`},
		{"[log]\nlevel = -1", `f:6:9: [log] level: invalid value -1; must be a whole number from 0 to 2147483647`},
		{"[pid]", `f:5:2: [pid]: incomplete; write one of file, fd`},
		{"[pid]\nfil = 1\n\n[log]\nlvel = 1", "f:6:1: [pid] fil: unknown key; did you mean \"file\"?\nf:9:1: [log] lvel: unknown key; did you mean \"level\"?"},
	} {
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
		{"", "f: [tpmstate]: missing; write dir = \"PATH\" or file = \"PATH\"\nf: [interface] server: missing; no client could reach this TPM: write [interface] server or [control] listen"},
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

// TestStateFile checks that a relative file is next to the profile, and not locked by
// default.
func TestStateFile(t *testing.T) {
	const src = "[control]\nlisten = \"fd:3\"\n[tpmstate]\nfile = \"%i.img\"\n"
	for more, lock := range map[string]bool{"": false, "lock = true": true, "lock = false": false} {
		c, err := parseProfile("f", src+more, "/p", "vm1")
		if err != nil || c.State.Location.String() != "file:///p/vm1.img" || c.State.Lock != lock {
			t.Errorf("%s: %+v, %v", more, c, err)
		}
	}
}

func TestLocate(t *testing.T) {
	src := "# [no]\na.b = [ { x = 1 }, { \"y z\" = '''\n[no]\n''' } ] # c\r\n" +
		"[ t . 'u' ]\nv = \"\\\"#\" # w = 1\nw = {p.q = 1, r = [\n[2], # ]\n3]}\n[[s]]\nk=2026-01-01 10:00:00\n[s.z]\n"
	at := locate(src)
	for _, tt := range []struct {
		words      []string
		key, value position
	}{
		{[]string{"a"}, position{2, 1}, position{2, 7}},
		{[]string{"a", "b"}, position{2, 1}, position{2, 7}},
		{[]string{"a", "b", "x"}, position{2, 11}, position{2, 15}},
		{[]string{"a", "b", "y z"}, position{2, 22}, position{2, 30}},
		{[]string{"t", "u"}, position{5, 3}, position{5, 3}},
		{[]string{"t", "u", "v"}, position{6, 1}, position{6, 5}},
		{[]string{"t", "u", "w", "p", "q"}, position{7, 6}, position{7, 12}},
		{[]string{"t", "u", "w", "r"}, position{7, 15}, position{7, 19}},
		{[]string{"s"}, position{10, 3}, position{10, 3}},
		{[]string{"s", "k"}, position{11, 1}, position{11, 3}},
		{[]string{"s", "z"}, position{12, 2}, position{12, 2}},
	} {
		if got, ok := at[path(tt.words...)]; !ok || got.key != tt.key || got.value != tt.value {
			t.Errorf("locate %q = %v, want %v %v", tt.words, got, tt.key, tt.value)
		}
	}
	if _, ok := at["no"]; ok {
		t.Errorf("locate found a key in a comment or a string")
	}
}

func TestLoadProfile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "vm7.toml")
	src := "[control]\nlisten = \"fd:3\"\n[tpmstate]\ndir = \"%i\"\n"
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ instance, want string }{{"", "vm7"}, {"a b", "a b"}} {
		c, err := LoadProfile(file, tt.instance)
		if want := "dir://" + filepath.Join(dir, tt.want); err != nil || c.State.Location.String() != want {
			t.Errorf("LoadProfile(%q) = %v, %v, want %s", tt.instance, c, err, want)
		}
	}
	for _, instance := range []string{"..", "a/b", "a\x00"} {
		if _, err := LoadProfile(file, instance); err == nil {
			t.Errorf("LoadProfile took the instance %q", instance)
		}
	}
	if _, err := LoadProfile(filepath.Join(dir, "none.toml"), ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("LoadProfile of no file: %v", err)
	}
	if err := os.WriteFile(file, make([]byte, maxProfile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadProfile(file, ""); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("LoadProfile of a large file: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("after loading: %v, %v, want only the profile", entries, err)
	}
}

func TestFindProfile(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, f := range []string{a + "/default.toml", b + "/vm1.toml", b + "/default.toml", a + "/vm2.toml", b + "/vm2.toml"} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ name, file, instance, err string }{
		{"vm1", b + "/vm1.toml", "vm1", ""},
		{"vm2", a + "/vm2.toml", "vm2", ""},
		{"vm3", a + "/default.toml", "vm3", ""},
		{"x.toml", "x.toml", "x", ""},
		{"./x", "./x", "x", ""},
		{"/etc/x.toml", "/etc/x.toml", "x", ""},
		{"..", "", "", `invalid instance name "..": write a name without a slash`},
		{"", "", "", `invalid instance name "": write a name without a slash`},
	} {
		file, instance, err := findProfile(tt.name, []string{a, b})
		if errText(err) != tt.err || err == nil && (file != tt.file || instance != tt.instance) {
			t.Errorf("findProfile(%q) = %q, %q, %v, want %q, %q, %s", tt.name, file, instance, err, tt.file, tt.instance, tt.err)
		}
	}
	if _, _, err := findProfile("x", []string{"/none"}); !strings.HasPrefix(errText(err), `profile "x": neither x.toml nor default.toml in /none; copy `) || !strings.HasSuffix(errText(err), " to /none/x.toml") {
		t.Errorf("findProfile of none: %v", err)
	}
	if got, want := example("vm1.toml", []string{"/none", examples}), examples+"/vm1.toml"; got != want {
		t.Errorf("example = %q, want %q", got, want)
	}
	if got, want := example("vm1.toml", []string{"/none"}), "examples/vm1.toml of the documentation"; got != want {
		t.Errorf("example = %q, want %q", got, want)
	}
	env := func(m map[string]string) func(string) string { return func(n string) string { return m[n] } }
	for _, tt := range []struct {
		uid  int
		env  map[string]string
		want []string
	}{
		{0, map[string]string{"XDG_CONFIG_HOME": "/x"}, systemDirs},
		{1, map[string]string{"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, append([]string{"/x/swtpm"}, systemDirs...)},
		{1, map[string]string{"XDG_CONFIG_HOME": "x", "HOME": "/h"}, append([]string{"/h/.config/swtpm"}, systemDirs...)},
		{1, nil, systemDirs},
	} {
		if got := profileDirs(tt.uid, env(tt.env)); !slices.Equal(got, tt.want) {
			t.Errorf("profileDirs(%d, %v) = %q, want %q", tt.uid, tt.env, got, tt.want)
		}
	}
}

// FuzzProfile checks that every key has a position, and that a profile that loads can be
// printed and loaded again.
func FuzzProfile(f *testing.F) {
	files, err := filepath.Glob(examples + "/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(src))
	}
	f.Add(small + "[key]\npwdfd = 3\n[log]\nprefix = \"%%i\\u0001\\\"\"\n[interface]\nserver = \"tcp:[fe80::1%eth0]:1\"")
	f.Add("tpmstate = { dir = '''s''', mode = \"0600\" }\ncontrol.listen = \"fd:0\"\nflags.\"startup\" = \"none\"")
	f.Fuzz(func(t *testing.T, src string) {
		var tree map[string]any
		if _, err := toml.Decode(src, &tree); err == nil && !strings.Contains(src, `\`) {
			placed(t, locate(src), nil, tree)
		}
		c, err := parseProfile("f", src, "/p", "vm1")
		var wrong *ProfileError
		switch {
		case err == nil:
			again(t, "f", c)
			if !strings.HasPrefix(c.JSON(), `{"tpm":`) {
				t.Errorf("JSON = %s", c.JSON())
			}
		case !errors.As(err, &wrong) || !strings.Contains(src, "%") && strings.Contains(err.Error(), "%!"):
			t.Errorf("%q: %v, want a ProfileError", src, err)
		}
	})
}

// placed checks that each key of tree has a position.
func placed(t *testing.T, at map[string]where, words []string, tree map[string]any) {
	t.Helper()
	for name, v := range tree {
		words := append(slices.Clone(words), name)
		if _, ok := at[path(words...)]; !ok {
			t.Errorf("no place for %q", words)
		}
		if sub, ok := v.(map[string]any); ok {
			placed(t, at, words, sub)
		}
	}
}

// TestManual checks that the manual page has every table and every key.
func TestManual(t *testing.T) {
	src, err := os.ReadFile("../../man/swtpm.toml.5")
	if err != nil {
		t.Fatal(err)
	}
	page := string(src)
	for _, tb := range defaults().tables() {
		if !strings.Contains(page, "["+tb.name+"]") {
			t.Errorf("man page without [%s]", tb.name)
		}
		for _, k := range tb.keys.known(profile) {
			found := false
			for line := range strings.Lines(page) {
				words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" ,\"\n", r) })
				found = found || len(words) > 0 && strings.HasPrefix(words[0], ".") && slices.Contains(words[1:], k.name)
			}
			if !found {
				t.Errorf("man page without [%s] %s", tb.name, k.name)
			}
		}
	}
}
