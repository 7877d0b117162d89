package libtpms

import (
	"errors"
	"slices"
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
