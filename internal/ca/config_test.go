package ca

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/cli"
)

// TestParseConfig checks the values of configuration files, and the errors.
func TestParseConfig(t *testing.T) {
	t.Setenv("CADIR", "/ca")
	for _, tt := range []struct {
		text string
		want Config
		err  string
	}{
		{text: "statedir = ${CADIR}/s # where\nsigningkey=/k\nissuercert = /c\n",
			want: Config{StateDir: "/ca/s", SigningKey: "/k", IssuerCert: "/c", Serial: "/ca/s/certserial", PIN: defaultPIN}},
		{text: "statedir = /s\nsigningkey = /k\nissuercert = /c\ncertserial = /n\nsigningkey_password = p q\nenv:A = 1\n",
			want: Config{StateDir: "/s", SigningKey: "/k", IssuerCert: "/c", Serial: "/n", Password: "p q", PIN: defaultPIN}},
		{text: "statedir = /s\nsigningkey = pkcs11:token=a\\;object=b\nissuercert = /c\nSWTPM_PKCS11_PIN = 1234\n" +
			"env:A = ${CADIR} # x \nenv:2 = 3\nenv:B=\nenv:C\n env:D = 4\n",
			want: Config{StateDir: "/s", SigningKey: "pkcs11:token=a;object=b", IssuerCert: "/c", Serial: "/s/certserial", PIN: "1234",
				Env: []string{"A=${CADIR} # x ", "B="}}},
		{text: "", err: "Missing 'statedir' config value in config file F."},
		{text: "statedir = #\nsigningkey = k\n", err: "Missing 'statedir' config value in config file F."},
		{text: "statedir = /s\nissuercert = /c", err: "Missing 'signingkey' config value in config file F."},
		{text: "statedir = /s\nsigningkey = /k", err: "Missing 'issuercert' config value in config file F."},
	} {
		got, err := parseConfig("F", cli.ConfigFile(tt.text))
		switch {
		case tt.err != "":
			if err == nil || err.Error() != tt.err {
				t.Errorf("parseConfig(%q) = %v, want %q", tt.text, err, tt.err)
			}
		case err != nil || !reflect.DeepEqual(*got, tt.want):
			t.Errorf("parseConfig(%q) = %+v, %v, want %+v", tt.text, got, err, tt.want)
		}
	}
}

// TestLoadConfig checks that a file is read, and the message about a missing one.
func TestLoadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.conf")
	want := "Need read rights on config file " + path + " for user " + cli.UserName() + "." + cli.OwnFiles()
	if _, err := LoadConfig(path); err == nil || err.Error() != want {
		t.Errorf("LoadConfig = %v, want %q", err, want)
	}
	if err := os.WriteFile(path, []byte("statedir=s\nsigningkey=k\nissuercert=c"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := LoadConfig(path); err != nil || c.StateDir != "s" {
		t.Errorf("LoadConfig = %+v, %v", c, err)
	}
}

// TestExample checks that the example is a configuration, and says what swtpm's does.
func TestExample(t *testing.T) {
	c, err := LoadConfig("../../examples/swtpm-localca.conf")
	const dir = "/var/lib/swtpm-localca"
	want := &Config{StateDir: dir, SigningKey: dir + "/signkey.pem", IssuerCert: dir + "/issuercert.pem", Serial: dir + "/certserial", PIN: defaultPIN}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("the example is %+v, %v, want %+v", c, err, want)
	}
}

// FuzzEnvironment checks that a variable has a name, and a value of one line.
func FuzzEnvironment(f *testing.F) {
	for _, s := range []string{"env:A = 1\n", "env:A=\nenv:_b1 =x y ", "env:=", "env:A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all := environment(cli.ConfigFile(s))
		for _, v := range all {
			name, value, _ := strings.Cut(v, "=")
			if !isName(name) || strings.Contains(value, "\n") {
				t.Errorf("environment(%q) has %q", s, v)
			}
		}
		if more := environment(cli.ConfigFile(s + "\nenv:X = 1\n")); !slices.Equal(more, append(all, "X=1")) {
			t.Errorf("environment(%q) = %q, with a line more %q", s, all, more)
		}
	})
}
