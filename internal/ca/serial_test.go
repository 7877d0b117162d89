package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const largest = "1461501637330902918203684832716283019655932542975" // of 20 bytes

// TestAfter checks that a file gives the same serial number as with swtpm 0.11; "" stands for a
// new start.
func TestAfter(t *testing.T) {
	for in, want := range map[string]string{
		"41": "42", "41\n": "42", "41 x": "42", "0": "1", "007": "8", "99": "100",
		"18446744073709551615": "18446744073709551616",
		largest[:48] + "4":     largest,
		largest:                "",
		"":                     "", "x": "", "-1": "", " 1": "", "\n": "",
		strings.Repeat("1", 50): "", "1" + strings.Repeat(" ", 49): "",
	} {
		got := ""
		if n, ok := after(in); ok {
			got = n.String()
		}
		if got != want {
			t.Errorf("after(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestFirstSerial checks the form of 500 new serial numbers, and that a failing source of random
// bytes is an error.
func TestFirstSerial(t *testing.T) {
	seen := make(map[string]bool)
	for range 500 {
		n, err := firstSerial(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s := n.String()
		if len(s) != startDigits || s[0] != '1' || s[1] == '8' || strings.ContainsRune(s, '9') || !n.IsUint64() {
			t.Errorf("first serial number %s", s)
		}
		if seen[s] {
			t.Errorf("%s again", s)
		}
		seen[s] = true
	}
	if _, err := firstSerial(bytes.NewReader(nil)); err == nil {
		t.Error("a number without random bytes")
	}
}

// TestSerialFile checks what is in the file afterwards.
func TestSerialFile(t *testing.T) {
	for in, want := range map[string]string{"41\n": "42", "9 x": "10", strings.Repeat("7", 60): "", "": "", largest: ""} {
		dir := t.TempDir()
		file := filepath.Join(dir, "certserial")
		if err := os.WriteFile(file, []byte(in), 0o640); err != nil {
			t.Fatal(err)
		}
		c, _ := newCA(t, dir)
		n, err := nextSerial(t, c)
		got := string(read(t, dir, "certserial"))
		if err != nil || n.String() != got || want != "" && got != want || want == "" && len(got) != startDigits {
			t.Errorf("after %q: %v, %v, file %q", in, n, err, got)
		}
	}
}

// TestSerialsAtOnce checks that no number is given twice.
func TestSerialsAtOnce(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			c, _ := newCA(t, dir)
			for range 5 {
				n, err := nextSerial(t, c)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got = append(got, n.String())
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(got)
	if len(slices.Compact(got)) != 50 {
		t.Errorf("50 numbers have %d values", len(slices.Compact(got)))
	}
}

// FuzzAfter checks that a number is one more than all the digits in front, and
// fits.
func FuzzAfter(f *testing.F) {
	for _, s := range []string{"", "41\n", largest, "18446744073709551615", "x", "007", strings.Repeat("1", 49)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := after(s)
		if !ok {
			return
		}
		if n.Sign() <= 0 || n.BitLen() > serialBits {
			t.Errorf("after(%q) = %v, which no certificate may have", s, n)
		}
		before := new(big.Int).Sub(n, big.NewInt(1)).String()
		if before == "0" {
			before = ""
		}
		rest, ok := strings.CutPrefix(strings.TrimLeft(s, "0"), before)
		if !ok || rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			t.Errorf("after(%q) = %v", s, n)
		}
	})
}

// nextSerial returns the next serial number.
func nextSerial(t *testing.T, c *CA) (*big.Int, error) {
	t.Helper()
	all, err := c.nextSerials(t.Context(), 1)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// TestExpect checks that announced certificates have consecutive serial numbers that are
// reserved together, and that another user of the CA gets later ones.
func TestExpect(t *testing.T) {
	c := openSite(t, "")
	other := New(c.cfg, &testLog{})
	issue := func(c *CA) *big.Int {
		t.Helper()
		var n *big.Int
		if _, err := c.issue(t.Context(), func(serial *big.Int, _ *x509.Certificate, key crypto.Signer) ([]byte, error) {
			n = serial
			_, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256)
			return nil, err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	c.Expect(3)
	first := issue(c)
	b, err := os.ReadFile(c.cfg.Serial)
	if err != nil || string(b) != new(big.Int).Add(first, big.NewInt(2)).String() {
		t.Errorf("after the first of three, number %v: the file has %q, %v", first, b, err)
	}
	for i, x := range []struct {
		c    *CA
		want int64
	}{{other, 3}, {c, 1}, {c, 2}, {c, 4}, {other, 5}} {
		if got := issue(x.c); got.Cmp(new(big.Int).Add(first, big.NewInt(x.want))) != 0 {
			t.Errorf("certificate %d has the number %v, want %v and %d", i, got, first, x.want)
		}
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
}
