package signer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKeyFileMode checks that a key which others may use or change is not used.
func TestKeyFileMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, readFile(t, "ec-traditional.pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		mode      os.FileMode
		err, warn string
	}{
		{0o400, "", ""},
		{0o600, "", ""},
		{0o640, "", "is 0640, so its group can read the key; chmod 0600"},
		{0o644, "its mode is 0644, so users other than the owner can use or change the key: chmod 0600 " + path, ""},
		{0o620, "its mode is 0620", ""},
		{0o601, "its mode is 0601", ""},
		{0o666, "its mode is 0666", ""},
	} {
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		var warnings []string
		key, err := Open(Source{Key: path, Warn: func(s string) { warnings = append(warnings, s) }})
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("mode %#o: %v, want %s", tt.mode, err, tt.err)
		}
		if got := strings.Join(warnings, "; "); (got == "") != (tt.warn == "") || !strings.Contains(got, tt.warn) {
			t.Errorf("mode %#o: warning %q, want %q", tt.mode, got, tt.warn)
		}
		if key != nil {
			if err := key.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestHostileKeyFiles checks that what is no key file is refused at once.
func TestHostileKeyFiles(t *testing.T) {
	dir := t.TempDir()
	fifo, huge := filepath.Join(dir, "fifo"), filepath.Join(dir, "huge")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		fifo:                       "not a regular file",
		dir:                        "is a directory",
		huge:                       "1099511627776 bytes are too many for a key",
		filepath.Join(dir, "none"): "no such file or directory",
	} {
		if _, err := Open(Source{Key: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%s): %v, want %s", path, err, want)
		}
	}
}

// TestOpenRefuses checks the errors about keys that cannot be opened.
func TestOpenRefuses(t *testing.T) {
	for key, want := range map[string]string{
		"tpmkey:uuid=8":                  "keys of a TPM 1.2, tpmkey:…, are not supported",
		"tpm2:handle=1":                  `handle "1" in the URI is not the handle of a persistent object`,
		"tpm2:tcti=device:":              "the URI must have one of handle= and file=",
		"tpm2:handle=0x81000001;":        `"" in the URI is not handle=…, file=… or tcti=…`,
		"tpm2:file=%":                    "is not percent-encoded",
		"tpm2:file=/none":                "open /none: no such file or directory",
		"tpm2:file=/x;handle=0x81000001": "the URI must have one of handle= and file=",
		"pkcs11:token=x":                 "the URI names no key",
	} {
		if _, err := Open(Source{Key: key}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%s): %v, want %s", key, err, want)
		}
	}
}

// TestWithoutPIN checks that the printed form of a key has no PIN.
func TestWithoutPIN(t *testing.T) {
	for key, want := range map[string]string{
		"/etc/key.pem?pin-value=1": "/etc/key.pem?pin-value=1",
		"pkcs11:object=a":          "pkcs11:object=a",
		"pkcs11:object=a?pin-value=1234&module-name=softhsm2": "pkcs11:object=a?pin-value=…&module-name=softhsm2",
		"pkcs11:object=a?pin-value=12;34?56":                  "pkcs11:object=a?pin-value=…",
		"pkcs11:object=a;pin-value=1234;id=%01":               "pkcs11:object=a;pin-value=…;id=%01",
		"pkcs11:pin-value=1234;object=a":                      "pkcs11:pin-value=…;object=a",
	} {
		if got := WithoutPIN(key); got != want {
			t.Errorf("Place(%s) = %s, want %s", key, got, want)
		}
	}
}
