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
	if err := CheckEntropy(); err != nil {
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
	if err := CheckEntropy(); err != nil {
		t.Error(err)
	}
}

// writtenInfo is a text as libtpms 0.10 writes it.
const writtenInfo = `{"RuntimeAlgorithms":{"Implemented":"rsa,tdes,sha1","CanBeDisabled":"tdes","Enabled":"rsa,sha1","Disabled":"tdes"},` +
	`"RuntimeAttributes":{"Implemented":"no-sha1-hmac,pct","CanBeDisabled":"pct","Enabled":"pct","Disabled":"no-sha1-hmac"}}`

// TestEnabledLists checks the lists in texts as libtpms 0.10 writes them and in others, and that package json finds
// the same.
func TestEnabledLists(t *testing.T) {
	with := func(old, now string) string { return strings.ReplaceAll(writtenInfo, old, now) }
	for _, c := range []struct{ info, algorithms, attributes string }{
		{`{}`, "", ""}, // libtpms 0.9
		{writtenInfo, "rsa,sha1", "pct"},
		{with(`"pct","Disabled"`, `"","Disabled"`), "rsa,sha1", ""},
		{strings.ReplaceAll(with(":", " : "), "{", "{\n"), "rsa,sha1", "pct"},
		{with("rsa,sha1", `rsa\u002csha1`), "rsa,sha1", "pct"},
		{with("rsa,sha1", "rsa,\xff"), "rsa,\ufffd", "pct"},
		{with(`CanBeDisabled":"`, `CanBeDisabled":"}`), "rsa,sha1", "pct"},
		{with(`"RuntimeAttributes"`, `"Attributes"`), "rsa,sha1", ""},
		{with(`"CanBeDisabled":"tdes"`, `"CanBeDisabled":{"Enabled":"x"}`), "rsa,sha1", "pct"},
		{with(`"CanBeDisabled":"tdes"`, `"RuntimeAlgorithms":{"Enabled":"x"}`), "rsa,sha1", "pct"},
		{with(`"Disabled":"tdes"`, `"Enabled":"x"`), "x", "pct"},
		{with(`"Disabled":"tdes"`, `"ENABLED":"x"`), "x", "pct"},
		{with(`"Enabled":"rsa,sha1"`, `"enabled":"rsa,sha1"`), "rsa,sha1", "pct"},
		{with(`"Enabled":"rsa,sha1",`, ""), "", "pct"},
		{with(`"Implemented":"rsa,tdes,sha1"`, `"Implemented":2`), "rsa,sha1", "pct"},
		{with(`{"RuntimeAlgorithms"`, `{"RuntimeAlgorithms":{"Enabled":"x"},"RuntimeAlgorithms"`), "rsa,sha1", "pct"},
		{with(`}}`, `},"RuntimeAlgorithms":{"Enabled":"x"}}`), "x", "pct"},
		{with(`}}`, `},"RuntimeAttributes":{"Enabled":"x"}}`), "rsa,sha1", "x"},
	} {
		if algorithms, attributes, err := enabledLists(c.info); algorithms != c.algorithms || attributes != c.attributes || err != nil {
			t.Errorf("%s: %q, %q, %v, want %q, %q", c.info, algorithms, attributes, err, c.algorithms, c.attributes)
		}
	}
	if n := testing.AllocsPerRun(10, func() { _, _, _ = enabledLists(writtenInfo) }); n > 0 {
		t.Errorf("%v allocations for the text of libtpms 0.10, want none", n)
	}
}

// TestEnabledListsDamaged checks that a text with one byte missing, changed or added, or with a missing end, has
// the same result as with package json.
func TestEnabledListsDamaged(t *testing.T) {
	check := func(info string) {
		t.Helper()
		var v struct{ RuntimeAlgorithms, RuntimeAttributes struct{ Enabled string } }
		want := json.Unmarshal([]byte(info), &v)
		a, b, err := enabledLists(info)
		if (err == nil) != (want == nil) || err == nil && (a != v.RuntimeAlgorithms.Enabled || b != v.RuntimeAttributes.Enabled) {
			t.Errorf("%s: %q, %q, %v, want %+v, %v", info, a, b, err, v, want)
		}
	}
	for i := range writtenInfo {
		before, after := writtenInfo[:i], writtenInfo[i+1:]
		check(before)
		check(before + after)
		for _, c := range "{}\":,\\ \nE\x00" {
			check(before + string(c) + after)
			check(before + string(c) + writtenInfo[i:])
		}
	}
	check(writtenInfo + "}")
	check(writtenInfo + writtenInfo)
}
