package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestSocketOptionsAreAll holds that completion knows each option
// and, for each whose argument is a list, exactly the names that the
// parser takes.
func TestSocketOptionsAreAll(t *testing.T) {
	options := map[string]Option{}
	for _, o := range Options("socket") {
		options[o.Names[0]] = o
	}
	none := func(string) string { return "" }
	for _, row := range socketOptions {
		o, ok := options["--"+row.long]
		if !ok {
			t.Errorf("--%s is not completed", row.long)
		}
		if (o.Arg != "") != row.arg {
			t.Errorf("--%s takes an argument: %v, completed as %q", row.long, row.arg, o.Arg)
		}
		if !row.arg {
			continue
		}
		_, err := Classic("socket", []string{"--" + row.long, "no-such-name=x"}, none)
		var wrong *UsageError
		isList := errors.As(err, &wrong) && strings.Contains(wrong.Text, "Unknown option 'no-such-name=x'")
		if isList != (o.Sub != nil) {
			t.Errorf("--%s: its argument is a list: %v (%v); completed as one: %v", row.long, isList, err, o.Sub != nil)
		}
		for _, s := range o.Sub {
			values := s.Words
			if values == nil {
				values = []string{"1"}
			}
			for _, v := range values {
				arg := s.Name + "=" + v
				_, err := Classic("socket", []string{"--" + row.long, arg}, none)
				if errors.As(err, &wrong) && strings.Contains(wrong.Text, "nknown") {
					t.Errorf("--%s %s is completed and refused: %v", row.long, arg, err)
				}
			}
		}
	}
}

// TestSuboptions holds some of what the tables say of values.
func TestSuboptions(t *testing.T) {
	find := func(option, name string) Suboption {
		for _, o := range Options("socket") {
			if i := slices.IndexFunc(o.Sub, func(s Suboption) bool { return s.Name == name }); o.Names[0] == option && i >= 0 {
				return o.Sub[i]
			}
		}
		t.Fatalf("%s has no %s", option, name)
		return Suboption{}
	}
	if s := find("--tpmstate", "dir"); s.Path != Directory || s.Switch {
		t.Errorf("dir is %+v, want a directory", s)
	}
	if s := find("--ctrl", "path"); s.Path != File {
		t.Errorf("path is %+v, want a file", s)
	}
	if s := find("--log", "file"); s.Path != File {
		t.Errorf("file is %+v, want a file", s)
	}
	if s := find("--tpmstate", "lock"); !s.Switch {
		t.Errorf("lock is %+v, want a switch", s)
	}
	if s := find("--tpmstate", "mode"); s.Words != nil || s.Switch || s.Path != NoPath {
		t.Errorf("mode is %+v, want a text", s)
	}
	if s := find("--server", "type"); !slices.Equal(s.Words, []string{"unixio", "tcp"}) {
		t.Errorf("type is %+v, want unixio or tcp", s)
	}
	if s := find("--key", "kdf"); !slices.Equal(s.Words, []string{"pbkdf2", "sha512"}) {
		t.Errorf("kdf is %+v, want pbkdf2 or sha512", s)
	}
}
