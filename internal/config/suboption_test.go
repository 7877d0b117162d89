package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestSplitSuboptions checks how the argument of an option is split.
func TestSplitSuboptions(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
		err  string
	}{
		{"", []string{""}, ""},
		{"a", []string{"a"}, ""},
		{"a,b=c", []string{"a", "b=c"}, ""},
		{"a,", []string{"a", ""}, ""},
		{",,a", []string{"", "", "a"}, ""},
		{"a=b=c,d", []string{"a=b=c", "d"}, ""},
		{"a={x,y},b", []string{"a={x,y}", "b"}, ""},
		{"a={x,{y,z}},b", []string{"a={x,{y,z}}", "b"}, ""},
		{"a={x,y}", []string{"a={x,y}"}, ""},
		{"a={x", []string{"a={x"}, ""},
		{"b,a={x", []string{"b", "a={x"}, ""},
		{"a={x}z", []string{"a={x}z"}, ""},
		{"a=b={x,y}", []string{"a=b={x", "y}"}, ""},
		{"={x,y}", []string{"={x", "y}"}, ""},
		{"a={x,y", nil, "Unterminated JSON map."},
		{"a={x,y}z", nil, "Unexpected character following JSON map."},
		{`a={"}",b}`, nil, "Unexpected character following JSON map."}, // quotes are not understood
	} {
		got, err := splitSuboptions(tt.in)
		if errText(err) != tt.err || !slices.Equal(got, tt.want) {
			t.Errorf("splitSuboptions(%q) = %q, %q, want %q, %q", tt.in, got, errText(err), tt.want, tt.err)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestFirstSuboptionCounts checks that the first of several equal suboptions counts.
func TestFirstSuboptionCounts(t *testing.T) {
	var s State
	o, err := parseSuboptions("mode=0600,mode=0644,lock=1,lock=no,backup,dir=/x", s.keys(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.fill(s.keys(nil)); err != nil {
		t.Fatal(err)
	}
	want := State{Location: nv.Location{Kind: nv.Directory, Path: "/x"}, Mode: 0o600, ModeExplicit: true, Lock: true, Backup: true}
	if s != want {
		t.Errorf("got %+v, want %+v", s, want)
	}
}

var typesHighest = uint32(1<<32 - 2)

// typesCases are the cases of TestTypes.
var typesCases = []struct {
	key  string // of the table below
	in   string
	want int
	err  string
}{
	{"int", "5", 5, ""},
	{"int", " 5", 5, ""},
	{"int", "+5", 5, ""},
	{"int", "-5", -5, ""},
	{"int", "010", 10, ""},
	{"int", "2147483647", 1<<31 - 1, ""},
	{"int", "2147483648", 0, "number '2147483648' outside valid range"},
	{"int", "99999999999999999999", 0, "number '99999999999999999999' outside valid range"},
	{"int", "0x10", 0, "invalid number '0x10'"},
	{"int", "5 ", 0, "invalid number '5 '"},
	{"int", "1_0", 0, "invalid number '1_0'"},
	{"int", "true", 0, "invalid number 'true'"},
	{"level", "0", 1, ""},
	{"level", "7", 7, ""},
	{"level", "+5", 5, ""},
	{"level", "4294967295", 1<<31 - 1, ""},
	{"level", "4294967296", 0, "number '4294967296' outside valid range"},
	{"level", "-1", 0, "required positive number, got '-1'"},
	{"level", "x", 0, "invalid number 'x'"},
	{"bool", "true", 1, ""},
	{"bool", "TrUe", 1, ""},
	{"bool", "1", 1, ""},
	{"bool", "yes", 0, ""},
	{"bool", "0", 0, ""},
	{"bool", "2", 0, ""},
	{"mode", "0", 0, ""},
	{"mode", "777", 0o777, ""},
	{"mode", "0600", 0o600, ""},
	{"mode", " 7", 0o7, ""},
	{"mode", "7 ", 0, "invalid mode type '7 '"},
	{"mode", "888", 0, "invalid mode type '888'"},
	{"mode", "true", 0, "invalid mode type 'true'"},
	{"mode", "1000", 0, "mode 1000 is invalid"},
	{"mode", "-1", 0, "mode -1 is invalid"},
	{"mode", "77777777777", 0, "mode 77777777777 is invalid"},
	{"mode", "99999999999999999999999", 0, "invalid mode type '99999999999999999999999'"},
	{"uid", "0", 0, ""},
	{"uid", "00", 0, ""},
	{"uid", "+7", 7, ""},
	{"uid", "4294967294", int(typesHighest), ""},
	{"uid", "4294967295", -1, ""},
	{"uid", "root", 0, ""},
	{"uid", "-1", 0, "uid -1 outside valid range"},
	{"uid", "4294967296", 0, "uid 4294967296 outside valid range"},
	{"uid", "no-such-user", 0, "User 'no-such-user' does not exist."},
	{"uid", "0x0", 0, "User '0x0' does not exist."},
	{"gid", "root", 0, ""},
	{"gid", "4294967296", 0, "gid 4294967296 outside valid range"},
	{"gid", "no-such-group", 0, "Group 'no-such-group' does not exist."},
}

// TestTypes checks the values and the errors of each type of suboption.
func TestTypes(t *testing.T) {
	// negative where an int has 32 bits
	for _, tt := range typesCases {
		var c Config
		var on bool
		got := 0
		ks := keys{
			{name: "int", value: number(&got, 0)},
			{name: "level", value: level(&got)},
			{name: "bool", value: truth(&on)},
			{name: "mode", value: octal(&c.State.Mode, nil)},
			{name: "uid", value: owner{id: &got}.value()},
			{name: "gid", value: owner{id: &got, group: true}.value()},
		}
		o, err := parseSuboptions(tt.key+"="+tt.in, ks)
		want := tt.err
		if k := ks.find(tt.key); want != "" {
			want += k.form()
		}
		if errText(err) != want {
			t.Errorf("%s=%s: error %q, want %q", tt.key, tt.in, errText(err), want)
		}
		if err != nil {
			continue
		}
		if err := o.fill(ks); err != nil {
			t.Errorf("%s=%s: fill: %v", tt.key, tt.in, err)
		}
		if on {
			got = 1
		}
		if got += int(c.State.Mode); got != tt.want {
			t.Errorf("%s=%s = %d, want %d", tt.key, tt.in, got, tt.want)
		}
	}
}

// TestUnknownSuboption checks that an unknown or empty suboption is an error.
func TestUnknownSuboption(t *testing.T) {
	var s State
	for _, in := range []string{"", "dir=x,", ",dir=x", "dir=", "=x", "DIR=x", "dirx", "create", "dir=x,,lock"} {
		_, err := parseSuboptions(in, s.keys(nil))
		if err == nil || !strings.HasPrefix(err.Error(), "Unknown option '") {
			t.Errorf("parseSuboptions(%q) = %v, want Unknown option", in, err)
		}
	}
}

// FuzzSuboptions checks that the parts between commas make the text again, and that no
// text panics.
func FuzzSuboptions(f *testing.F) {
	for _, s := range []string{
		"", ",", "dir=/x,mode=0600,lock", "backend-uri=file://x", "type=unixio,path=p,uid=0", "a={b,{c}},d", "a={b,c",
		"file=k,format=hex,mode=aes-256-cbc,remove=true", "level=5,prefix=[id=1] ", "startup-clear,not-need-init",
		"port=1,bindaddr=fe80::1,ifname=lo,disconnect",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tokens, err := splitSuboptions(s)
		if err == nil && strings.Join(tokens, ",") != s {
			t.Errorf("splitSuboptions(%q) = %q, which does not make it again", s, tokens)
		}
		for _, o := range []string{"server", "ctrl", "tpmstate", "key", "log", "pid", "locality", "flags", "migration"} {
			c, err := Classic("socket", []string{"--" + o, s}, noEnv)
			if (c == nil) == (err == nil) {
				t.Errorf("--%s %q = %v, %v: want one of the two", o, s, c, err)
			}
			if err != nil && !strings.Contains(s, "%") && strings.Contains(err.Error(), "%!") {
				t.Errorf("--%s %q: %v", o, s, err)
			}
		}
	})
}

func noEnv(string) string { return "" }
