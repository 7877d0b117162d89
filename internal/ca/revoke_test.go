package ca

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// list returns the revocation list of a CA, checked as a verifier does.
func list(t *testing.T, c *CA) *x509.RevocationList {
	t.Helper()
	der, err := c.RevocationList(context.Background(), 7)
	if err != nil {
		t.Fatal(err)
	}
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := c.issuerCert()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.CheckSignatureFrom(issuer); err != nil {
		t.Error(err)
	}
	if got := l.NextUpdate.Sub(l.ThisUpdate); got != 7*24*time.Hour {
		t.Errorf("the list is valid for %v", got)
	}
	return l
}

// serials returns the serial numbers in a list.
func serials(l *x509.RevocationList) string {
	var all []string
	for _, r := range l.RevokedCertificateEntries {
		all = append(all, r.SerialNumber.String())
	}
	return strings.Join(all, " ")
}

// TestRevoke checks that a revocation list has the revoked certificates and the next number, and
// that the first list replaces the issuer's certificate once.
func TestRevoke(t *testing.T) {
	ctx := context.Background()
	c, log := newCA(t, t.TempDir())
	if _, err := c.RevocationList(ctx, 7); err == nil {
		t.Error("a CA that does not exist has a list")
	}
	_, before, err := issue(c)
	if err != nil {
		t.Fatal(err)
	}
	l := list(t, c)
	if serials(l) != "" || l.Number.Int64() != 1 {
		t.Errorf("first list: %q, number %v", serials(l), l.Number)
	}
	if !strings.Contains(strings.Join(log.lines, "\n"), "Issued a new certificate") {
		t.Errorf("messages %q do not mention the new certificate", log.lines)
	}
	after, err := c.issuerCert()
	if err != nil {
		t.Fatal(err)
	}
	if string(after.SubjectKeyId) != string(before.SubjectKeyId) || string(after.RawSubject) != string(before.RawSubject) ||
		string(after.RawSubjectPublicKeyInfo) != string(before.RawSubjectPublicKeyInfo) {
		t.Error("the new certificate is for another key or name")
	}
	root, err := c.root()
	if err != nil || after.CheckSignatureFrom(root) != nil {
		t.Errorf("the root CA has not signed the new certificate: %v", err)
	}
	for i, n := range []int64{5, 7, 5} {
		at, err := c.Revoke(ctx, big.NewInt(n))
		if err != nil || at.IsZero() {
			t.Fatalf("%d: %v, %v", i, at, err)
		}
	}
	if l = list(t, c); serials(l) != "5 7" || l.Number.Int64() != 2 {
		t.Errorf("list: %q, number %v", serials(l), l.Number)
	}
	if again, err := c.issuerCert(); err != nil || !again.Equal(after) {
		t.Error("the second list has changed the issuer's certificate")
	}
}

// TestRevokeAtOnce checks that concurrent revocations lose no entry, and that no two lists have
// the same number.
func TestRevokeAtOnce(t *testing.T) {
	dir := t.TempDir()
	c, _ := newCA(t, dir)
	if _, _, err := issue(c); err != nil {
		t.Fatal(err)
	}
	const n = 20
	var wg sync.WaitGroup
	var mu sync.Mutex
	numbers := map[string]bool{}
	for i := range n {
		wg.Go(func() {
			one, _ := newCA(t, dir)
			if _, err := one.Revoke(context.Background(), big.NewInt(int64(i))); err != nil {
				t.Error(err)
				return
			}
			der, err := one.RevocationList(context.Background(), 1)
			if err != nil {
				t.Error(err)
				return
			}
			l, err := x509.ParseRevocationList(der)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			numbers[l.Number.String()] = true
		})
	}
	wg.Wait()
	if l := list(t, c); len(l.RevokedCertificateEntries) != n || len(numbers) != n {
		t.Errorf("%d entries, %d numbers, want %d", len(l.RevokedCertificateEntries), len(numbers), n)
	}
}

// TestRevokeFails checks the errors of a revocation, and that they change no file.
func TestRevokeFails(t *testing.T) {
	for _, tt := range []struct {
		name, file, text, want string
	}{
		{"an invalid line", revokedName, "1 2026-01-02T03:04:05Z\n2 yesterday\n", `revoked:2: invalid line "2 yesterday"`},
		{"a line that was cut short", revokedName, "1 2026-01-02T03:04:05Z\n2 2026-01-02T03:04:05Z", "revoked:2: invalid line"},
		{"an invalid number", crlNumberName, "x", `"x" is not the number of a revocation list`},
		{"no root key", rootKeyName, "", "the key or the certificate of the root CA is missing"},
	} {
		c, _ := newCA(t, t.TempDir())
		if _, _, err := issue(c); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(c.cfg.StateDir, tt.file)
		var err error
		if tt.text == "" {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, []byte(tt.text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.RevocationList(context.Background(), 1); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
		if b, _ := os.ReadFile(path); string(b) != tt.text {
			t.Errorf("%s: the file has changed to %q", tt.name, b)
		}
	}
}

// TestIssuedSerial checks the serial numbers that --revoke accepts.
func TestIssuedSerial(t *testing.T) {
	c, _ := newCA(t, t.TempDir())
	if _, _, err := issue(c); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"1": "1", "00012": "12", "1461501637330902918203684832716283019655932542975": "1461501637330902918203684832716283019655932542975"} {
		if n, err := c.IssuedSerial(name); err != nil || n.String() != want {
			t.Errorf("IssuedSerial(%q) = %v, %v", name, n, err)
		}
	}
	for name, want := range map[string]string{
		"/nonexistent": "no such file", "1461501637330902918203684832716283019655932542976": "no such file",
		c.cfg.SigningKey: "certificate in", c.cfg.IssuerCert: "was not issued by this CA",
	} {
		if n, err := c.IssuedSerial(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("IssuedSerial(%q) = %v, %v, want %s", name, n, err, want)
		}
	}
}

// FuzzRevoked checks that a file with revoked certificates is refused or gives its
// entries back as they were written.
func FuzzRevoked(f *testing.F) {
	f.Add("1 2026-01-02T03:04:05Z\n")
	f.Add("x\n")
	dir := f.TempDir()
	c := New(&Config{StateDir: dir}, &testLog{})
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(filepath.Join(dir, revokedName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := c.revoked()
		if err != nil {
			return
		}
		if len(all) != strings.Count(text, "\n") {
			t.Errorf("%d entries from %q", len(all), text)
		}
		for _, r := range all {
			if r.SerialNumber.Sign() < 0 || r.SerialNumber.BitLen() > serialBits {
				t.Errorf("serial number %v from %q", r.SerialNumber, text)
			}
		}
	})
}

// TestListOfMany checks a list with many entries.
func TestListOfMany(t *testing.T) {
	c, _ := newCA(t, t.TempDir())
	if _, _, err := issue(c); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&text, "%d 2026-01-02T03:04:05Z\n", i)
	}
	if err := os.WriteFile(filepath.Join(c.cfg.StateDir, revokedName), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if l := list(t, c); len(l.RevokedCertificateEntries) != 20000 {
		t.Errorf("%d entries", len(l.RevokedCertificateEntries))
	}
}
