package cert

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"strings"
	"testing"
)

// TestParseSubject checks the encoding of subjects.
func TestParseSubject(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "3000"},
		{"garbage", "3000"},
		{"CN=vm", "300d 310b 3009 0603 550403 0c02 766d"},
		{"commonName=vm", "300d 310b 3009 0603 550403 0c02 766d"},
		{" CN = vm ,, x", "300d 310b 3009 0603 550403 0c02 766d"},
		{"C=US,O=a", "3019 310b 3009 0603 550406 1302 5553 310a 3008 0603 55040a 0c01 61"},
		{"serialNumber=7", "300c 310a 3008 0603 550405 1301 37"},
		{"SN=7", "300c 310a 3008 0603 550404 0c01 37"},
		{"DC=a", "3013 3111 300f 060a 0992268993f22c640119 1601 61"},
		{"CN=a=b", "300e 310c 300a 0603 550403 0c03 613d62"},
		{`CN=a\,b`, `300d 310b 3009 0603 550403 0c02 615c`}, // the comma ends it, "b" has no "="
		{"CN=ä", "300d 310b 3009 0603 550403 0c02 c3a4"},
		{"C=USA", "a country has two letters"},
		{"CN=", "the value is empty"},
		{"cn=x", `unknown attribute "cn"`},
		{"=x", `unknown attribute ""`},
		{"serialNumber=a_b", "letters, digits, blanks and"},
		{"DC=ä", "must be ASCII"},
		{"CN=\xff", "is not UTF-8"},
	} {
		got, err := parseSubject(tt.in)
		if err != nil {
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseSubject(%q): %v, want %s", tt.in, err, tt.want)
			}
			continue
		}
		if hex.EncodeToString(got) != strings.ReplaceAll(tt.want, " ", "") {
			t.Errorf("ParseSubject(%q) = %x, want %s", tt.in, got, tt.want)
		}
	}
}

// FuzzParseSubject checks that what comes out is a Name with the values that went
// in.
func FuzzParseSubject(f *testing.F) {
	for _, s := range []string{"", "CN=vm", "C=US,O=a b,OU=c", "serialNumber=7", "DC=a, DC = b,x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		der, err := parseSubject(s)
		if err != nil {
			return
		}
		var name pkix.RDNSequence
		if rest, err := asn1.Unmarshal(der, &name); err != nil || len(rest) > 0 {
			t.Fatalf("ParseSubject(%q) = %x: %v", s, der, err)
		}
		var values []string
		for _, part := range strings.Split(s, ",") {
			if _, v, ok := strings.Cut(part, "="); ok {
				values = append(values, strings.TrimSpace(v))
			}
		}
		if len(values) != len(name) {
			t.Fatalf("ParseSubject(%q) has %d attributes, want %d", s, len(name), len(values))
		}
		for i, v := range values {
			if len(name[i]) != 1 || name[i][0].Value != v {
				t.Errorf("ParseSubject(%q): value %v, want %q", s, name[i], v)
			}
		}
	})
}
