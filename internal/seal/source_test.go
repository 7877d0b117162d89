package seal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

const (
	hex128 = "000102030405060708090a0b0c0d0e0f"
	hex256 = hex128 + "101112131415161718191a1b1c1d1e1f"
)

func keyFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var readKeyRaw = string(harness.Unhex(hex256))

// readKeyCases are the cases of TestReadKey.
var readKeyCases = []struct {
	name, in string
	src      Source
	want     string
}{
	{"hex", hex128, Source{Hex: true, Bits: 128}, hex128},
	{"hex 256", hex256, Source{Hex: true, Bits: 256}, hex256},
	{"upper case", strings.ToUpper(hex256), Source{Hex: true, Bits: 256}, hex256},
	{"0x and newline", "0x" + hex256 + "\n", Source{Hex: true, Bits: 256}, hex256},
	{"NUL ends it", hex128 + "\x00junk", Source{Hex: true, Bits: 128}, hex128},
	{"blank ends it", hex128 + " comment", Source{Hex: true, Bits: 128}, hex128},
	{"carriage return ends it", hex128 + "\r\n", Source{Hex: true, Bits: 128}, hex128},
	{"67 bytes are read", "0x" + hex256 + "\n" + strings.Repeat("#", 5000), Source{Hex: true, Bits: 256}, hex256},
	{"blank at the start", " " + hex128, Source{Hex: true, Bits: 128}, ""},
	{"odd", hex128[1:], Source{Hex: true, Bits: 128}, ""},
	{"bad digit", "g" + hex128[1:], Source{Hex: true, Bits: 128}, ""},
	{"48 digits", hex256[:48], Source{Hex: true, Bits: 256}, ""},
	{"64 digits for 128 bits", hex256, Source{Hex: true, Bits: 128}, ""},
	{"32 digits for 256 bits", hex128, Source{Hex: true, Bits: 256}, ""},
	{"66 digits", hex256 + "00", Source{Hex: true, Bits: 256}, ""},
	{"no digit", "0x", Source{Hex: true, Bits: 128}, ""},
	{"empty", "", Source{Hex: true, Bits: 128}, ""},
	{"raw", readKeyRaw[:16], Source{Bits: 128}, hex128},
	{"raw 256", readKeyRaw, Source{Bits: 256}, hex256},
	{"raw 16 bytes for 256 bits", readKeyRaw[:16], Source{Bits: 256}, hex128},
	{"raw 17 bytes", readKeyRaw[:17], Source{Bits: 128}, ""},
	{"raw 31 bytes", readKeyRaw[:31], Source{Bits: 256}, ""},
	{"raw with newline", readKeyRaw + "\n", Source{Bits: 256}, ""},
	{"raw empty", "", Source{Bits: 128}, ""},
	{"size", hex128, Source{Hex: true, Bits: 192}, ""},
	{"kdf", "secret", Source{Passphrase: true, KDF: "md5", Bits: 128}, ""},
	{"passphrase too long", strings.Repeat("x", maxPassphrase+1), Source{Passphrase: true, KDF: "sha512", Bits: 128}, ""},

	// Known answers of state-format: each opens a file of swtpm 0.7.1.
	{"pbkdf2", "correct horse battery", Source{Passphrase: true, KDF: "pbkdf2", Bits: 128}, "2607e586d224fc3c0ee1c3bf7ee2999b"},
	{"sha512", "correct horse battery", Source{Passphrase: true, KDF: "sha512", Bits: 128}, "cef61e4e4eda7ba8a2feaa120617fcf7"},
	{"newline counts", "correct horse battery\n", Source{Passphrase: true, KDF: "pbkdf2", Bits: 256}, "6dafc30e63265c2491df7101f05dbe74f3f30e5cd8a78ecd08172d86effd0a01"},
	{"pbkdf2, migration", "migrate-me-please", Source{Passphrase: true, KDF: "pbkdf2", Bits: 128}, "b7334944281a244902c64e0f007f4011"},
	{"sha512 256", "migrate-me-please", Source{Passphrase: true, KDF: "sha512", Bits: 256}, "2a45049348ad4d782d3777ef9d8c81b28d2d6817f6433b5b9d9ea5007e6eba9e"},
	{"empty passphrase", "", Source{Passphrase: true, KDF: "sha512", Bits: 128}, "cf83e1357eefb8bdf1542850d66d8007"},
	// Python's hashlib; longer than a block of SHA-512, which swtpm 0.7.1 opens.
	{"600 bytes", strings.Repeat("a", 600), Source{Passphrase: true, KDF: "pbkdf2", Bits: 128}, "ace84f569920d7bae4b4a0fcc32b33d6"},
}

// TestReadKey checks how each form is taken; want "" stands for an error.
func TestReadKey(t *testing.T) {

	for _, c := range readKeyCases {
		t.Run(c.name, func(t *testing.T) {
			for _, how := range []string{"file", "pipe"} {
				src := c.src
				if how == "file" {
					src.Path = keyFile(t, c.in)
				} else {
					src.FD = pipeFed(t, c.in)
				}
				k, err := ReadKey(src)
				if c.want == "" {
					if err == nil {
						t.Errorf("%s: ReadKey(%q) = %x, want an error", how, c.in, k.bytes())
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: ReadKey(%q): %v", how, c.in, err)
					continue
				}
				if got := hex.EncodeToString(k.bytes()); got != c.want || k.Bits() != 4*len(got) {
					t.Errorf("%s: ReadKey(%q) = %s of %d bits, want %s", how, c.in, got, k.Bits(), c.want)
				}
				if warned := warns(k, "passphrase is short"); warned != (src.Passphrase && len(c.in) <= 6) {
					t.Errorf("%s: warnings %q", how, k.Warnings())
				}
				if how == "pipe" {
					if err := unix.Fstat(src.FD, &unix.Stat_t{}); err != unix.EBADF {
						t.Errorf("the descriptor is still open: %v", err)
					}
				}
				if err := k.Close(); err != nil || k.Bits() != 0 || k.Close() != nil {
					t.Errorf("Close: %v, then %d bits", err, k.Bits())
				}
			}
		})
	}
}

func warns(k *Key, what string) bool {
	return strings.Contains(strings.Join(k.Warnings(), "\n"), what)
}

// pipeFed returns a pipe that does not block and gets content in two parts,
// the second only when the first was taken.
func pipeFed(t *testing.T, content string) int {
	t.Helper()
	p := make([]int, 2)
	if err := unix.Pipe2(p, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		t.Fatal(err)
	}
	w := os.NewFile(uintptr(p[1]), "pipe")
	go func() {
		defer w.Close()
		w.WriteString(content[:len(content)/2])
		for range 1000 {
			if n, err := unix.IoctlGetInt(int(w.Fd()), unix.TIOCINQ); err != nil || n == 0 {
				break
			}
		}
		w.WriteString(content[len(content)/2:])
	}()
	return p[0]
}

// TestRefuseKeyFile checks that what is not a regular file is refused at once.
func TestRefuseKeyFile(t *testing.T) {
	d := t.TempDir()
	fifo := filepath.Join(d, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, d, "/dev/zero"} {
		_, err := ReadKey(Source{Path: path, Hex: true, Bits: 128})
		if err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("ReadKey(%s) = %v", path, err)
		}
	}
	if _, err := ReadKey(Source{Path: filepath.Join(d, "none"), Bits: 128}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := ReadKey(Source{FD: -1, Bits: 128}); !errors.Is(err, unix.EBADF) {
		t.Errorf("fd -1: %v", err)
	}
	link := filepath.Join(d, "link")
	if err := os.Symlink(keyFile(t, hex128), link); err != nil {
		t.Fatal(err)
	}
	k, err := ReadKey(Source{Path: link, Hex: true, Bits: 128})
	if err != nil {
		t.Fatalf("a link to a key file: %v", err)
	}
	k.Close()
}

// TestRemove checks that a file goes after a successful read and only then.
func TestRemove(t *testing.T) {
	path := keyFile(t, hex128)
	if _, err := ReadKey(Source{Path: path, Hex: true, Bits: 256, Remove: true}); err == nil {
		t.Error("32 digits taken for 256 bits")
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("removed after a failed read: %v", err)
	}
	k, err := ReadKey(Source{Path: path, Hex: true, Bits: 128, Remove: true})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not removed: %v", err)
	}
	if warns(k, "removed") {
		t.Errorf("warnings %q", k.Warnings())
	}
}

// TestSecretErrors checks that an error shows no part of a key.
func TestSecretErrors(t *testing.T) {
	const digit = "\xfe"
	path := keyFile(t, digit+hex128[1:])
	_, err := ReadKey(Source{Path: path, Hex: true, Bits: 128})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, leak := range []string{digit, "xfe", "fe'", hex128[1:9], fmt.Sprint(0xfe)} {
		if strings.Contains(strings.ReplaceAll(err.Error(), path, ""), leak) {
			t.Errorf("error %q shows %q", err, leak)
		}
	}
}

// TestKeyPage checks that a key is in locked memory that no core dump has, and
// that NewKey leaves no second copy.
func TestKeyPage(t *testing.T) {
	b := harness.Unhex(hex256)
	k, err := NewKey(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, make([]byte, 32)) {
		t.Errorf("NewKey has left %x", b)
	}
	if len(k.Warnings()) > 0 {
		t.Skipf("memory cannot be locked here: %q", k.Warnings())
	}
	flags := vmFlags(t, k.page.all)
	for _, f := range []string{"lo", "dd", "wf"} { // locked, don't dump, wipe on fork
		if !strings.Contains(flags, " "+f+" ") {
			t.Errorf("flags of the page are %q, without %q", flags, f)
		}
	}
	page := k.page
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if flags := vmFlags(t, page.all); strings.Contains(flags, " lo ") {
		t.Errorf("still mapped after Close: %q", flags)
	}
	if _, err := NewKey(make([]byte, 24)); err == nil {
		t.Error("NewKey takes 24 bytes")
	}
}

// vmFlags returns the line VmFlags of the mapping that b is in, "" if none.
func vmFlags(t *testing.T, b []byte) string {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skipf("no smaps: %v", err)
	}
	addr := fmt.Sprintf("%p", b)[2:]
	found := false
	for line := range strings.Lines(string(smaps)) {
		found = found || strings.HasPrefix(line, addr+"-")
		if v, ok := strings.CutPrefix(line, "VmFlags:"); ok && found {
			return strings.TrimRight(v, "\n") + " "
		}
	}
	return ""
}
