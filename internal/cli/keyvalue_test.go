package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestValue checks the value of a key in a configuration file.
func TestValue(t *testing.T) {
	t.Setenv("CONF_DIR", "/d")
	os.Unsetenv("CONF_UNSET")
	for _, tt := range []struct{ file, want string }{
		{"key = a b ", "a b"},
		{"key=a", "a"},
		{"key\t =\ta\r\n", "a"},
		{"key =", ""},
		{"key = a # comment", "a"},
		{"key = #", ""},
		{"x\nkey = 1\nkey = 2\n", "1"},
		{"key2 = 1\nkey = 2", "2"},
		{"key = ${CONF_DIR}/x/${CONF_DIR}", "/d/x//d"},
		{"key = a${CONF_UNSET}b", "ab"},
		{"key = a${CONF_DIR", "a${CONF_DIR"},
		{"key = $CONF_DIR", "$CONF_DIR"},
		{" key = 1", "none"},
		{"#key = 1", "none"},
		{"key 1", "none"},
		{"", "none"},
	} {
		got, ok := ConfigFile(tt.file).Value("key")
		if !ok {
			got = "none"
		}
		if got != tt.want {
			t.Errorf("Value of %q = %q, want %q", tt.file, got, tt.want)
		}
	}
}

// TestRead checks that a configuration file must be regular.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	fifo, file := filepath.Join(dir, "fifo"), filepath.Join(dir, "file")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("a = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		fifo:        "not a regular file",
		dir:         "is a directory",
		"/dev/zero": "not a regular file",
		dir + "/no": "no such file",
	} {
		if _, err := ReadConfig(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read(%s) = %v, want %q", path, err, want)
		}
	}
	if f, err := ReadConfig("/dev/null"); f != "" || err != nil {
		t.Errorf("Read(/dev/null) = %q, %v", f, err)
	}
	if f, err := ReadConfig(file); f != "a = 1\n" || err != nil {
		t.Errorf("Read = %q, %v", f, err)
	}
}

// TestFind checks that the user's configuration file is preferred.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	if got := FindConfig("f.conf"); got != "/etc/f.conf" {
		t.Errorf("Find without the user's file = %s", got)
	}
	path := filepath.Join(dir, "f.conf")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := FindConfig("f.conf"); got != path {
		t.Errorf("Find = %s, want %s", got, path)
	}
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", "/h")
	if got := UserDir(); got != "/h/.config" {
		t.Errorf("UserDir = %s", got)
	}
}

// FuzzValue checks that a value has neither blanks around it nor a line end or a
// comment in it, and that a line appended for another key changes nothing.
func FuzzValue(f *testing.F) {
	for _, s := range []string{"key = 1", "a\nkey=2 # x\n", "key = ${HOME}", "key", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "${") {
			return // the environment may hold anything
		}
		v, ok := ConfigFile(s).Value("key")
		if strings.ContainsAny(v, "#\n") || strings.Trim(v, blanks) != v {
			t.Errorf("Value of %q = %q", s, v)
		}
		if v2, ok2 := ConfigFile(s + "\nother = x\n").Value("key"); v != v2 || ok != ok2 {
			t.Errorf("Value of %q = %q, with another line %q", s, v, v2)
		}
	})
}
