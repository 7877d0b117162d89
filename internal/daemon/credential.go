package daemon

import (
	"fmt"
	"os"
	"path/filepath"
)

// Credential returns the file of a credential that systemd passed, as with
// LoadCredential=. The secret itself is in no argument and no variable, and the
// file is removed when the service ends. The error for a missing credential says what to
// do.
//
// Source: systemd.exec(5), $CREDENTIALS_DIRECTORY.
func Credential(name string) (string, error) {
	advice := fmt.Sprintf("give the unit LoadCredential=%s:PATH or LoadCredentialEncrypted=%s:PATH", name, name)
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", fmt.Errorf("credential %q: systemd passed no credentials: %s", name, advice)
	}
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err != nil {
		return "", fmt.Errorf("credential %q: %w: %s", name, err, advice)
	}
	return path, nil
}
