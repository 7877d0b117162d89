package setup

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestConfigFiles compares messages, exit codes and files of recorded calls of
// --create-config-files with the reference's.
func TestConfigFiles(t *testing.T) {
	b, err := os.ReadFile("testdata/create-config-files.json")
	if err != nil {
		t.Fatal(err)
	}
	var calls []struct {
		Argv           []string
		Exit           int
		Stdout, Stderr string
		Files          map[string]string
	}
	if err := json.Unmarshal(b, &calls); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		calls = calls[1:] // only root needs the flag root
	}
	work := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(work, "home"))
	kernel := regexp.MustCompile(`(?m)^--platform-version .*$`)
	compared := 0
	for _, c := range calls {
		if c.Argv[0] != "swtpm_setup" {
			continue
		}
		local := func(s string) string {
			s = strings.ReplaceAll(s, "PREFIX/etc", "/etc")
			return kernel.ReplaceAllString(strings.ReplaceAll(s, "WORK", work), "--platform-version V")
		}
		var stdout, stderr bytes.Buffer
		err := Run(t.Context(), c.Argv[1:], Environment{Name: "swtpm_setup", Stdout: &stdout, Stderr: &stderr, Bindir: "PREFIX/bin"})
		if (err != nil) != (c.Exit != 0) || stdout.String() != local(c.Stdout) || stderr.String() != local(c.Stderr) {
			t.Errorf("%q: %v\nstdout %q\nwant   %q\nstderr %q\nwant   %q", c.Argv, err, &stdout, local(c.Stdout), &stderr, local(c.Stderr))
		}
		for path, want := range c.Files {
			compared++
			got, err := os.ReadFile(local(path))
			if err != nil || kernel.ReplaceAllString(string(got), "--platform-version V") != local(want) {
				t.Errorf("%s: %q, %v; want %q", path, got, err, local(want))
			}
		}
	}
	if compared != 3 {
		t.Errorf("%d files were compared, want 3", compared)
	}
}

// TestConfigFilesUnwritable checks the message about a directory that cannot be created.
func TestConfigFilesUnwritable(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", writeTo(t, dir, "file", "", 0o600))
	wantError(t, "a file as directory", createConfigFiles(&bytes.Buffer{}, "root", "/bin"), "Could not create ")
}
