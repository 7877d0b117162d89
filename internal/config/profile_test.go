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

// TestExamplesLoad checks that each example is a valid profile, and that it can be printed and
// parsed again.
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

const small = `[control]
listen = "unix:c"
[tpmstate]
dir = "s"
`

// profileCases are the cases of TestProfile.
var profileCases = []struct {
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
}

// TestProfile checks the Config that profiles give.
func TestProfile(t *testing.T) {
	for _, tt := range profileCases {
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

// TestLocate checks the positions of keys and values in TOML.
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

// TestLoadProfile checks that %i is replaced by the name of the file or the instance, and that
// nothing is created.
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

// TestFindProfile checks the search path of profiles.
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
