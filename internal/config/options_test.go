package config

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/cli/completion"
)

// TestOptionTables checks all options and suboptions of the tables: they are parsed,
// described in the help and in swtpm(8). A new one needs no other table; without its help
// or its line in the manual page this test fails.
func TestOptionTables(t *testing.T) {
	src, err := os.ReadFile("../../man/swtpm.8")
	if err != nil {
		t.Fatal(err)
	}
	manual := strings.ReplaceAll(string(src), `\-`, "-")
	for iface, needed := range map[string][]string{"socket": nil, "chardev": {"--chardev", "/dev/x"}, "cuse": {"--name", "x"}} {
		usage := Usage(iface)
		for _, o := range Options(iface) {
			name := "--" + o.Name
			if o.Help == "" || o.Section == "" || !strings.Contains(usage, name) {
				t.Errorf("swtpm %s %s: help %q in section %q", iface, name, o.Help, o.Section)
			}
			if !strings.Contains(manual, name) {
				t.Errorf("swtpm(8) without %s", name)
			}
			l := line{cfg: defaults(), given: map[string]string{}, fd: -1}
			l.set(&o, "1")
			if _, list := l.given[o.Name]; list != (o.Sub != nil) {
				t.Errorf("swtpm %s %s: applied as an option with suboptions: %t, want %t", iface, name, list, !list)
			}
			if o.Sub == nil {
				continue
			}
			if _, err := Classic(iface, append(needed, name, "no-such-name=x"), noEnv); !isUnknown(err) {
				t.Errorf("swtpm %s %s no-such-name=x: %v, want an unknown option", iface, name, err)
			}
			if n := len(suboptionsOf(o.Name)); n == 0 || n > mostKeys {
				t.Errorf("swtpm %s %s has %d suboptions, want 1 to %d", iface, name, n, mostKeys)
			}
			for _, s := range o.Sub() {
				checkSuboption(t, iface, append(needed, name), s)
				if !strings.Contains(usage, "\n      "+s.Name) {
					t.Errorf("swtpm %s --help without %s of %s", iface, s.Name, name)
				}
				if !strings.Contains(manual, s.Name) {
					t.Errorf("swtpm(8) without %s of %s", s.Name, name)
				}
			}
		}
	}
}

// isUnknown reports whether err is about a name or a value that the parser does not know.
func isUnknown(err error) bool {
	var wrong *UsageError
	return errors.As(err, &wrong) && strings.Contains(wrong.Text, "nknown option '")
}

// checkSuboption checks that s is parsed with each value that is completed.
func checkSuboption(t *testing.T, iface string, args []string, s cli.Suboption) {
	t.Helper()
	if s.Help == "" {
		t.Errorf("%q %s: no help", args, s.Name)
	}
	values := s.Value.Words
	if values == nil {
		values = []string{"1"}
	}
	for _, v := range values {
		if _, err := Classic(iface, append(args, s.Name+"="+v), noEnv); isUnknown(err) {
			t.Errorf("swtpm %s %q %s=%s is completed and refused: %v", iface, args, s.Name, v, err)
		}
	}
}

// TestSuboptions checks how values are completed.
func TestSuboptions(t *testing.T) {
	find := func(option, name string) cli.Suboption {
		for _, o := range Options("socket") {
			if o.Name != option {
				continue
			}
			if i := slices.IndexFunc(o.Sub(), func(s cli.Suboption) bool { return s.Name == name }); i >= 0 {
				return o.Sub()[i]
			}
		}
		t.Fatalf("--%s has no %s", option, name)
		return cli.Suboption{}
	}
	for _, tt := range []struct {
		option, name string
		kind         completion.Kind
	}{
		{"tpmstate", "dir", completion.Directory}, {"ctrl", "path", completion.File}, {"log", "file", completion.File},
		{"tpmstate", "mode", completion.Text}, {"server", "type", completion.Words}, {"key", "kdf", completion.Words},
	} {
		if s := find(tt.option, tt.name); s.Value.Kind != tt.kind || s.Arg == "" {
			t.Errorf("--%s %s is %+v, want kind %d", tt.option, tt.name, s, tt.kind)
		}
	}
	if s := find("tpmstate", "lock"); s.Arg != "" {
		t.Errorf("lock is %+v, want a switch", s)
	}
	if s := find("server", "type"); !slices.Equal(s.Value.Words, []string{"unixio", "tcp"}) {
		t.Errorf("type is %+v, want unixio or tcp", s)
	}
	if s := find("key", "kdf"); !slices.Equal(s.Value.Words, []string{"pbkdf2", "sha512"}) {
		t.Errorf("kdf is %+v, want pbkdf2 or sha512", s)
	}
}
