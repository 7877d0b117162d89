package libtpms

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/algprofile"
)

// TestRefusesNothing checks that OpenSSL refuses nothing that a TPM may need, on a host without a
// policy of its own. test/newer checks refusals.
func TestRefusesNothing(t *testing.T) {
	for _, op := range []algprofile.Operation{
		algprofile.Camellia128, algprofile.Camellia256, algprofile.TripleDES, algprofile.RSAES, algprofile.NISTP192,
		algprofile.RSA1024, algprofile.SHA1Signing, algprofile.SHA1Verification, algprofile.UnpaddedEncrypt, algprofile.SHA1HMAC,
		algprofile.RSA1024SignPSS, algprofile.RSA1024SignPKCS1, algprofile.RSA2048SignPSS, algprofile.RSA2048SignPKCS1,
	} {
		if got := refuses(op); got != 0 || Refuses(op) {
			t.Errorf("%s: %d, want 0: OpenSSL does not refuse it", op, got)
		}
	}
	if got := refuses("something else"); got != -1 || Refuses("something else") {
		t.Errorf("an unknown operation: %d, want -1", got)
	}
	for _, ask := range []func() bool{
		func() bool { return cipher("NO-SUCH-CIPHER") > 0 },
		func() bool { return sign(2048, "NO-SUCH-DIGEST", 1) > 0 },
	} {
		if !ask() {
			t.Error("an unknown operation is not refused")
		}
	}
	if err := Entropy(); err != nil {
		t.Error(err)
	}
}

// TestProfileNeedsNewerLibrary checks that SetProfile fails with ErrUnsupported if the library has
// no profiles.
func TestProfileNeedsNewerLibrary(t *testing.T) {
	e := Engine()
	e.Lock()
	defer e.Unlock()
	err := e.SetProfile("{}")
	if HasProfiles() == errors.Is(err, errors.ErrUnsupported) || err == nil {
		t.Errorf("SetProfile({}) = %v, with profiles: %v", err, HasProfiles())
	}
}

// TestKernelRandom checks that random numbers come from the kernel, also more of them than one
// getrandom(2) returns, and that every byte is filled.
func TestKernelRandom(t *testing.T) {
	if !kernelRandom() {
		t.Fatal("OpenSSL does not take its random numbers from the kernel")
	}
	for _, n := range []int{1, 32, 257, 1 << 20} {
		b := make([]byte, n+1)
		seen := make([]bool, n)
		for range 40 { // all zero 40 times by chance: 2^-320 for each byte
			if !random(b[:n]) {
				t.Fatalf("no %d random bytes", n)
			}
			for i, c := range b[:n] {
				seen[i] = seen[i] || c != 0
			}
		}
		if i := slices.Index(seen, false); i >= 0 || b[n] != 0 {
			t.Errorf("of %d random bytes the one at %d is always 0; the byte after them is %d", n, i, b[n])
		}
	}
	if err := Entropy(); err != nil {
		t.Error(err)
	}
}

// TestEnabledLists checks that the lists are those that package json finds, in texts as libtpms 0.10 writes them
// and in others.
func TestEnabledLists(t *testing.T) {
	const written = `{"RuntimeAlgorithms":{"Implemented":"rsa,tdes,sha1","CanBeDisabled":"tdes","Enabled":"rsa,sha1","Disabled":"tdes"},` +
		`"RuntimeAttributes":{"Implemented":"no-sha1-hmac,pct","CanBeDisabled":"pct","Enabled":"pct","Disabled":"no-sha1-hmac"}}`
	for _, c := range []struct{ info, algorithms, attributes string }{
		{`{}`, "", ""}, // libtpms 0.9
		{written, "rsa,sha1", "pct"},
		{strings.Replace(written, `"pct","Disabled"`, `"","Disabled"`, 1), "rsa,sha1", ""},
		{strings.ReplaceAll(strings.ReplaceAll(written, ":", " : "), "{", "{\n"), "rsa,sha1", "pct"},
		{strings.ReplaceAll(written, "rsa,sha1", `rsa\u002csha1`), "rsa,sha1", "pct"},
		{strings.ReplaceAll(written, "CanBeDisabled\":\"", `CanBeDisabled":"}`), "rsa,sha1", "pct"},
		{strings.ReplaceAll(written, `"RuntimeAttributes"`, `"Attributes"`), "rsa,sha1", ""},
	} {
		if algorithms, attributes, err := enabledLists(c.info); algorithms != c.algorithms || attributes != c.attributes || err != nil {
			t.Errorf("%s: %q, %q, %v, want %q, %q", c.info, algorithms, attributes, err, c.algorithms, c.attributes)
		}
		var v map[string]struct{ Enabled string }
		if err := json.Unmarshal([]byte(c.info), &v); err != nil || v["RuntimeAlgorithms"].Enabled != c.algorithms {
			t.Errorf("%s: %v: is not what the case expects: %v", c.info, v, err)
		}
	}
	for _, info := range []string{"", `{"RuntimeAlgorithms":{"Enabled":"rsa`, written[:len(written)/2]} {
		if a, b, err := enabledLists(info); err == nil {
			t.Errorf("%s: %q, %q, want an error", info, a, b)
		}
	}
	if n := testing.AllocsPerRun(10, func() { _, _, _ = enabledLists(written) }); n > 0 {
		t.Errorf("%v allocations for the text of libtpms 0.10, want none", n)
	}
}
