package daemon

import (
	"os"
	"strings"
	"testing"
)

// TestCredential checks the path of a credential, and the errors.
func TestCredential(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := Credential("k"); err == nil || !strings.Contains(err.Error(), "systemd passed no credentials: give the unit LoadCredential=k:PATH") {
		t.Errorf("Credential without a directory = %v", err)
	}
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if _, err := Credential("k"); err == nil || !strings.Contains(err.Error(), `credential "k": lstat `+dir+`/k: no such file`) {
		t.Errorf("Credential that is not there = %v", err)
	}
	if err := os.WriteFile(dir+"/k", nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if path, err := Credential("k"); err != nil || path != dir+"/k" {
		t.Errorf("Credential = %q, %v, want %q", path, err, dir+"/k")
	}
}
