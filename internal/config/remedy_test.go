package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMissingProfile checks that the error about a missing profile says what to do.
func TestMissingProfile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vm1.toml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		dir + "/vm1":      `; did you mean "` + dir + `/vm1.toml"?`,
		dir + "/vm2.toml": "vm1.toml",
		dir:               "; give the path of a file in it",
	} {
		_, err := LoadProfile(file, "i")
		if err == nil || !strings.Contains(err.Error(), "; ") || !strings.Contains(err.Error(), want) {
			t.Errorf("LoadProfile(%q): %v, want %q", file, err, want)
		}
	}
}

// TestOtherFile checks that a file of another kind gives one error, which names the program that checks it.
func TestOtherFile(t *testing.T) {
	for file, want := range map[string]string{
		"../../examples/store.toml": `the file of the broker, not a profile; check it with swtpm-store --check --config "../../examples/store.toml"`,
		"../../examples/host.toml":  `the settings for all TPMs of a host, not a profile; check them with swtpm check "../../examples/host.toml"`,
	} {
		if _, err := LoadProfile(file, "i"); err == nil || err.Error() != file+": "+want {
			t.Errorf("LoadProfile(%q): %v, want %q", file, err, want)
		}
	}
	const profile = "[tpmstate]\ndir = \"/state\"\n[interface]\nserver = \"tcp:127.0.0.1:2321\"\n[flags]\nstartup = \"clear\"\n"
	for _, name := range []string{"host.toml", "store.toml"} { // of virtual machines with these names
		if _, err := ParseProfile(name, profile, ""); err != nil {
			t.Errorf("a profile with the name %s: %v", name, err)
		}
	}
}
