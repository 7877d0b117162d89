package signer

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestParsePKCS11 checks the parts of a PKCS #11 URI, and the errors.
func TestParsePKCS11(t *testing.T) {
	for _, tt := range []struct{ uri, want, err string }{
		{"pkcs11:token=my%20ca;object=key;type=private", `token "my ca" object "key" id "" module "" ""`, ""},
		{"pkcs11:model=SoftHSM%20v2;manufacturer=m;serial=1;token=t;id=%01%ff;object=o?module-path=/usr/lib/x.so&pin-value=12%3b",
			`token "t" object "o" id "\x01\xff" module "/usr/lib/x.so" "" pin "12;"`, ""},
		{"pkcs11:object=a;library-version=3?module-name=softhsm2", `token "" object "a" id "" module "" "softhsm2"`, ""},
		{"pkcs11:", "", "the URI names no key"},
		{"pkcs11:token=t", "", "the URI names no key"},
		{"pkcs11:object", "", `"object" in the URI has no value`},
		{"pkcs11:object=%zz", "", "the value of object in the URI is not percent-encoded"},
		{"pkcs11:object=a;object=b", "", "the URI has object twice"},
		{"pkcs11:object=a;type=cert", "", `type "cert" in the URI is not a private key`},
		{"pkcs11:object=a;slot-id=x", "", `slot-id "x" in the URI is not a number`},
		{"pkcs11:object=a?module-name=../x", "", `module-name "../x" in the URI is a path`},
		{"PKCS11:object=a", "", "it is not a pkcs11: URI"},
	} {
		u, err := parsePKCS11(tt.uri)
		if err != nil {
			if tt.err == "" || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("parsePKCS11(%s): %v, want %s", tt.uri, err, tt.err)
			}
			continue
		}
		got := fmt.Sprintf("token %q object %q id %q module %q %q", u.token, u.object, u.id, u.modulePath, u.moduleName)
		if u.pin != nil {
			got += fmt.Sprintf(" pin %q", *u.pin)
		}
		if got != tt.want {
			t.Errorf("parsePKCS11(%s) = %s, want %s%s", tt.uri, got, tt.want, tt.err)
		}
	}
}

// TestReadPIN checks which source of the PIN is preferred.
func TestReadPIN(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		query, password, pin, want string
	}{
		{"?pin-value=from%20uri&pin-source=" + path, "password", "env", "from uri"},
		{"?pin-source=" + path, "password", "env", "from file"},
		{"?pin-source=file:" + path, "password", "env", "from file"},
		{"?pin-source=file://" + path, "password", "env", "from file"},
		{"", "password", "env", "password"},
		{"", "", "env", "env"},
		{"?pin-value=", "password", "env", ""},
	} {
		u, err := parsePKCS11("pkcs11:object=a" + tt.query)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := u.readPIN([]byte(tt.password), tt.pin); got != tt.want || err != nil {
			t.Errorf("PIN of %q, password %q, environment %q = %q, %v, want %q", tt.query, tt.password, tt.pin, got, err, tt.want)
		}
	}
}

// FuzzParsePKCS11 checks that what a URI says can be said again.
func FuzzParsePKCS11(f *testing.F) {
	for _, s := range []string{
		"pkcs11:token=my%20ca;object=key;type=private", "pkcs11:id=%00?pin-value=1&module-path=/x", "pkcs11:slot-id=3;object=", "pkcs11:;;?&",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parsePKCS11(s)
		if err != nil {
			return
		}
		again := "pkcs11:token=" + url.PathEscape(u.token) + ";object=" + url.PathEscape(u.object)
		if u.id != nil {
			again += ";id=" + url.PathEscape(string(u.id))
		}
		v, err := parsePKCS11(strings.ReplaceAll(again, "&", "%26"))
		if err != nil || v.token != u.token || v.object != u.object || !bytes.Equal(v.id, u.id) {
			t.Errorf("parsePKCS11(%q) = %+v; of %q: %+v, %v", s, u, again, v, err)
		}
	})
}
