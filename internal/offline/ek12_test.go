package offline

import (
	"bytes"
	"testing"
)

// TestStoredCert12 checks the certificate in the NV index of a TPM 1.2, and the errors.
func TestStoredCert12(t *testing.T) {
	for _, tt := range []struct{ stored, want, err string }{
		{"\x10\x01\x00\x00\x05\x10\x02abc", "abc", ""},
		{"\x10\x01\x00\x00\x05\x10\x02abc\xff\xff", "abc", ""}, // an index that is longer
		{"\x10\x01\x00\x00\x06\x10\x02abc", "", "its length is 6, but 5 bytes follow"},
		{"\x10\x01\x00\x00\x02\x10\x02abc", "", "its length is 2, but 5 bytes follow"},
		{"\x10\x01\x01\x00\x05\x10\x02abc", "", "unexpected header of the certificate"},
		{"\x10\x01\x00\x00\x05\x10\x03abc", "", "unexpected header of the certificate"},
		{"\x10\x01\x00\x00\x05\x10", "", "unexpected header of the certificate"},
	} {
		got, err := storedCert12([]byte(tt.stored))
		text := ""
		if err != nil {
			text = err.Error()
		}
		if string(got) != tt.want || text != tt.err {
			t.Errorf("storedCert12(%x) = %q, %v, want %q, %s", tt.stored, got, err, tt.want, tt.err)
		}
	}
}

// FuzzStoredCert12 checks that a found certificate, stored again, equals the start of the
// index.
func FuzzStoredCert12(f *testing.F) {
	f.Add([]byte("\x10\x01\x00\x00\x05\x10\x02abc"))
	f.Add([]byte("\x10\x01\x00\xff\xff\x10\x02abc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		cert, err := storedCert12(b)
		if err != nil {
			return
		}
		n := len(cert) + 2
		again := append([]byte{0x10, 0x01, 0, byte(n >> 8), byte(n), 0x10, 0x02}, cert...)
		if !bytes.HasPrefix(b, again) {
			t.Errorf("%x has the certificate %x", b, cert)
		}
	})
}
