package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// testLog keeps messages.
type testLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *testLog) Infof(format string, args ...any)  { l.add(format, args) }
func (l *testLog) Errorf(format string, args ...any) { l.add("error: "+format, args) }

func (l *testLog) add(format string, args []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// newCA returns a CA in a directory. New keys of it are of elliptic curves, for
// those of RSA take their time.
func newCA(t *testing.T, dir string) (*CA, *testLog) {
	t.Helper()
	log := &testLog{}
	c := New(&Config{
		StateDir: dir, SigningKey: filepath.Join(dir, "signkey.pem"), IssuerCert: filepath.Join(dir, "issuercert.pem"),
		Serial: filepath.Join(dir, "certserial"), PIN: defaultPIN,
	}, log)
	c.newKey = quickKey
	return c, log
}

// issue has the CA issue something and returns its serial number and the issuer.
func issue(c *CA) (serial *big.Int, cert *x509.Certificate, err error) {
	_, err = c.issue(context.Background(), func(n *big.Int, issuer *x509.Certificate, key crypto.Signer) ([]byte, error) {
		serial, cert = n, issuer
		if !belongs(issuer, key.Public()) {
			return nil, errors.New("key and certificate do not belong together")
		}
		return nil, nil
	})
	return serial, cert, err
}

// made is a CA that was made once for all tests: its keys take their time.
var made = sync.OnceValues(func() (files map[string][]byte, err error) {
	dir, err := os.MkdirTemp("", "ca")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c := New(&Config{StateDir: dir, SigningKey: dir + "/signkey.pem", IssuerCert: dir + "/issuercert.pem", Serial: dir + "/certserial"}, &testLog{})
	if _, _, err := issue(c); err != nil {
		return nil, err
	}
	files = make(map[string][]byte)
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return files, err
})

// copyCA puts a CA into a new directory.
func copyCA(t *testing.T) string {
	t.Helper()
	files, err := made()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range files {
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(name, "key.pem") {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestNew checks that the first certificate creates a CA, with messages, and that the next one has
// the next serial number.
func TestNew(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a", "b")
	c, log := newCA(t, dir)
	c.newKey = generate
	serial, cert, err := issue(c)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(log.lines, "\n"); got != "Creating swtpm-localca dir '"+dir+"'.\nCreating root CA and a local CA's signing key and issuer cert." {
		t.Errorf("messages %q", got)
	}
	if want := string(read(t, dir, "certserial")); serial.String() != want || len(want) != startDigits || want[0] != '1' {
		t.Errorf("serial %v, file %q", serial, want)
	}
	for name, mode := range map[string]fs.FileMode{
		"signkey.pem": 0o600, rootKeyName: 0o600, "issuercert.pem": 0o644, rootCertName: 0o644, "certserial": 0o644, lockName: 0o755,
	} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode().Perm()&^umask(t) != mode&^umask(t) {
			t.Errorf("%s: %v, mode %v, want %v", name, err, fi.Mode(), mode)
		}
	}
	if got := names(t, dir); len(got) != 6 {
		t.Errorf("files %q", got)
	}
	if cert.Subject.String() != "CN=swtpm-localca" || len(cert.SubjectKeyId) != 20 || cert.SignatureAlgorithm != x509.SHA256WithRSA {
		t.Errorf("issuer %v, key identifier %x, %v", cert.Subject, cert.SubjectKeyId, cert.SignatureAlgorithm)
	}
	log.lines = nil
	if next, _, err := issue(c); err != nil || next.Sub(next, serial).Int64() != 1 || log.lines != nil {
		t.Errorf("the next certificate: %v, %v, %q", next, err, log.lines)
	}
}

// umask returns the bits that new files do not get.
func umask(t *testing.T) fs.FileMode {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x")
	f, err := os.OpenFile(path, os.O_CREATE, 0o777)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return 0o777 &^ fi.Mode().Perm()
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// traps are what a hostile user of the directory may put at a name; outside is a
// file that must stay as it is. A link is the trap of another user, for one's own
// are followed to read a key.
var traps = []struct {
	name string
	set  func(path, outside string) error
}{
	{"link", func(path, outside string) error {
		return errors.Join(os.Symlink(outside, path), os.Lchown(path, 12345, -1))
	}},
	{"dangling link", func(path, outside string) error {
		return errors.Join(os.Symlink(outside+".new", path), os.Lchown(path, 12345, -1))
	}},
	{"hard link", func(path, outside string) error { return os.Link(outside, path) }},
	{"fifo", func(path, _ string) error { return unix.Mkfifo(path, 0o666) }},
	{"directory", func(path, _ string) error { return os.Mkdir(path, 0o700) }},
	{"socket", func(path, _ string) error { return unix.Mknod(path, unix.S_IFSOCK|0o666, 0) }},
	{"device", func(path, _ string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }},
}

// TestTraps checks that no file outside is changed and that no call waits, whatever is in the
// place of a file, with the other files of the CA and without.
func TestTraps(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make devices and other users' links")
	}
	for _, name := range []string{"signkey.pem", "issuercert.pem", "certserial", lockName, rootKeyName, rootCertName, ".new.signkey.pem", ".new.issuercert.pem"} {
		for _, trap := range traps {
			t.Run(name+" "+trap.name, func(t *testing.T) {
				dir := copyCA(t)
				outside := filepath.Join(t.TempDir(), "outside")
				if err := os.WriteFile(outside, read(t, dir, "issuercert.pem"), 0o444); err != nil {
					t.Fatal(err)
				}
				for _, gone := range []string{name, "issuercert.pem"} { // the second has what is missing made
					os.Remove(filepath.Join(dir, gone))
				}
				if err := trap.set(filepath.Join(dir, name), outside); err != nil {
					t.Fatal(err)
				}
				c, _ := newCA(t, dir)
				_, _, err := issue(c)
				switch temp := strings.HasPrefix(name, ".new."); {
				case temp && trap.name != "directory" && err != nil:
					t.Errorf("a %s at a temporary name: %v", trap.name, err)
				case !temp && err == nil:
					t.Errorf("a %s at %s is taken", trap.name, name)
				}
				fi, err := os.Stat(outside)
				if b, _ := made(); err != nil || fi.Mode().Perm() != 0o444 || !bytes.Equal(read(t, filepath.Dir(outside), "outside"), b["issuercert.pem"]) {
					t.Errorf("the file outside has changed: %v, %v", fi.Mode(), err)
				}
				if got := names(t, filepath.Dir(outside)); len(got) != 1 {
					t.Errorf("files outside: %q", got)
				}
			})
		}
	}
}

// TestLink checks that a link of the caller may lead to a key.
func TestLink(t *testing.T) {
	dir, elsewhere := copyCA(t), t.TempDir()
	for _, name := range []string{"signkey.pem", "issuercert.pem"} {
		to := filepath.Join(elsewhere, name)
		if err := errors.Join(os.Rename(filepath.Join(dir, name), to), os.Symlink(to, filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	c, log := newCA(t, dir)
	if _, _, err := issue(c); err != nil || log.lines != nil {
		t.Errorf("%v, %q", err, log.lines)
	}
}

// TestOwner checks that the owner of the directory can use the files that root creates.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	dir := copyCA(t)
	for _, name := range []string{"issuercert.pem", "certserial", lockName} {
		os.Remove(filepath.Join(dir, name))
	}
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Skipf("files cannot be given away here: %v", err)
	}
	c, _ := newCA(t, dir)
	if _, _, err := issue(c); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"issuercert.pem", "certserial", lockName} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Uid != 12345 || st.Gid != 12345 {
			t.Errorf("%s: %v, owner %d:%d", name, err, st.Uid, st.Gid)
		}
	}
}

// TestBundle checks that the bundle is the root's certificate and the issuer's, and that a missing
// CA is an error.
func TestBundle(t *testing.T) {
	c, _ := newCA(t, t.TempDir())
	if _, err := c.Bundle(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a CA: %v", err)
	}
	files, err := made()
	if err != nil {
		t.Fatal(err)
	}
	c, _ = newCA(t, copyCA(t))
	got, err := c.Bundle()
	if want := string(files[rootCertName]) + string(files["issuercert.pem"]); string(got) != want || err != nil {
		t.Errorf("Bundle = %q, %v, want %q", got, err, want)
	}
}

// TestModes checks that other users can write no certificate and read no key, whatever the umask
// is.
func TestModes(t *testing.T) {
	files, err := made()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p, err := openPair(filepath.Join(dir, "key"), filepath.Join(dir, "cert"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(files["issuercert.pem"])
	defer unix.Umask(unix.Umask(0))
	if err := errors.Join(p.storeKey(key, ""), p.storeCert(block.Bytes)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"key": 0o600, "cert": 0o644} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, mode %v, want %v", name, err, st.Mode(), want)
		}
	}
}

// TestSecretPIN checks that the PIN in the URI of a key is in no message.
func TestSecretPIN(t *testing.T) {
	dir := copyCA(t)
	c, log := newCA(t, dir)
	c.cfg.SigningKey = "pkcs11:token=none;object=none?pin-value=s3cr3t&module-path=/nonexistent.so"
	_, _, err := issue(c)
	if err == nil || !strings.Contains(err.Error(), "signing key") {
		t.Fatalf("error %v", err)
	}
	if said := fmt.Sprint(err, log.lines); strings.Contains(said, "s3cr3t") {
		t.Errorf("the PIN was told: %s", said)
	}
}

// TestInterrupted checks that an interrupted call is an error and creates no certificate.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	c, _ := newCA(t, dir)
	c.newKey = generate
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.issue(ctx, func(*big.Int, *x509.Certificate, crypto.Signer) ([]byte, error) { return nil, nil })
	if err == nil {
		t.Error("no error")
	}
	if got := names(t, dir); len(got) > 1 {
		t.Errorf("files %q", got)
	}
}
