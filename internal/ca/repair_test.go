package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	repairKey, repairCert = "signkey.pem", "issuercert.pem"
	repairPart            = 400 // bytes of a file that was cut short
)

var repairAll = []string{rootKeyName, rootCertName, repairKey, repairCert}

// repairCases are the cases of TestRepair.
var repairCases = []struct {
	name  string
	gone  []string          // are missing
	spoil map[string]string // have this content, or PART of their own
	stay  []string          // are afterwards as they were
	old   []string          // are kept as .old
}{
	{name: "whole", stay: repairAll},
	{name: "no root", gone: []string{rootKeyName, rootCertName}, stay: []string{repairKey, repairCert}}, // a CA that another CA has certified
	{name: "nothing", gone: repairAll},
	{name: "root key only", gone: repairAll[1:], stay: repairAll[:1]},
	{name: "root only", gone: repairAll[2:], stay: repairAll[:2]},
	{name: "no issuer", gone: repairAll[3:], stay: repairAll[:3]},
	{name: "no signing key", gone: repairAll[2:3], stay: repairAll[:2], old: []string{repairCert}},
	{name: "no root key, no issuer", gone: []string{rootKeyName, repairCert}, stay: []string{repairKey}, old: []string{rootCertName}},
	{name: "no keys", gone: []string{rootKeyName, repairKey}, old: []string{rootCertName, repairCert}},
	{name: "empty issuer", spoil: map[string]string{repairCert: ""}, stay: repairAll[:3]},
	{name: "half an issuer", spoil: map[string]string{repairCert: "PART"}, stay: repairAll[:3], old: []string{repairCert}},
	{name: "empty key", gone: []string{repairCert}, spoil: map[string]string{repairKey: ""}, stay: repairAll[:2]},
	{name: "half a key", gone: []string{repairCert}, spoil: map[string]string{repairKey: "PART"}, stay: repairAll[:2], old: []string{repairKey}},
	{name: "half a root key", gone: repairAll[1:], spoil: map[string]string{rootKeyName: "PART"}, old: []string{rootKeyName}},
	{name: "half a root", gone: repairAll[2:], spoil: map[string]string{rootCertName: "PART"}, stay: repairAll[:1], old: []string{rootCertName}},
	{name: "no PEM", gone: []string{repairKey}, spoil: map[string]string{repairCert: "something else"}, stay: repairAll[:2], old: []string{repairCert}},
	{name: "left over", gone: repairAll[3:], spoil: map[string]string{".new." + repairCert: "half"}, stay: repairAll[:3]},
}

// TestRepair checks that an incomplete CA is completed, that useful files stay, and that only
// empty files are removed.
func TestRepair(t *testing.T) {

	for _, tt := range repairCases {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyCA(t)
			for _, name := range tt.gone {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			for name, content := range tt.spoil {
				if content == "PART" {
					content = string(read(t, dir, name)[:repairPart])
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := make(map[string][]byte)
			for _, name := range names(t, dir) {
				before[name] = read(t, dir, name)
			}
			c, log := newCA(t, dir)
			if _, _, err := issue(c); err != nil {
				t.Fatal(err, log.lines)
			}
			for _, name := range tt.stay {
				if !bytes.Equal(read(t, dir, name), before[name]) {
					t.Errorf("%s has changed", name)
				}
			}
			for _, name := range tt.old {
				if !bytes.Equal(read(t, dir, name+".old"), before[name]) {
					t.Errorf("%s.old is not what was there", name)
				}
			}
			if got := len(names(t, dir)); tt.name != "no root" && got != 6+len(tt.old) {
				t.Errorf("files %q", names(t, dir))
			}
			wantChain(t, dir, tt.name != "no root")
		})
	}
}

// wantChain checks the files of a CA: root, if it exists, signing key and certificate.
func wantChain(t *testing.T, dir string, root bool) {
	t.Helper()
	c, _ := newCA(t, dir)
	bundle, err := c.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	all, err := parseCertificates(bundle)
	switch {
	case err != nil:
		t.Fatal(err)
	case !root && len(all) == 1:
		return
	case len(all) != 2:
		t.Fatalf("%d certificates in the bundle", len(all))
	}
	pool := x509.NewCertPool()
	pool.AddCert(all[0])
	if _, err := all[1].Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	p, err := openPair(filepath.Join(dir, rootKeyName), filepath.Join(dir, rootCertName))
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if err := p.load("", &testLog{}); err != nil || p.cert == nil {
		t.Errorf("root: %v", err)
	}
}

// TestRefused checks the files that are left unchanged and reported.
func TestRefused(t *testing.T) {
	stranger := func(dir, name string) error { return os.Chown(filepath.Join(dir, name), 12345, -1) }
	for _, tt := range []struct {
		name string
		root bool // needs root
		do   func(dir string) error
		want string
	}{
		{"key that anybody may read", false, func(dir string) error { return os.Chmod(dir+"/signkey.pem", 0o604) }, "chmod 0600"},
		{"certificate of another key", false, func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, rootCertName))
			if err != nil {
				return err
			}
			return os.WriteFile(dir+"/issuercert.pem", b, 0o600)
		}, "does not belong to the signing key"},
		{"a stranger's key", true, func(dir string) error { return stranger(dir, "signkey.pem") }, "belongs to user 12345"},
		{"a stranger's certificate", true, func(dir string) error { return stranger(dir, "issuercert.pem") }, "belongs to user 12345"},
		{"a stranger's serial number", true, func(dir string) error { return stranger(dir, "certserial") }, "belongs to user 12345"},
		{"a stranger's lock", true, func(dir string) error { return stranger(dir, lockName) }, "belongs to user 12345"},
		{"a huge certificate", false, func(dir string) error { return os.Truncate(dir+"/issuercert.pem", 1<<40) }, "larger than"},
		{"an encrypted root", false, func(dir string) error {
			os.Remove(dir + "/issuercert.pem")
			p, err := openPair(filepath.Join(dir, rootKeyName), filepath.Join(dir, rootCertName))
			if err != nil {
				return err
			}
			defer p.close()
			if err := p.load("", &testLog{}); err != nil {
				return err
			}
			return p.storeKey(p.key, "secret")
		}, rootPasswordVar},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.root && os.Geteuid() != 0 {
				t.Skip("needs root, to give files away")
			}
			dir := copyCA(t)
			if err := tt.do(dir); err != nil {
				t.Fatal(err)
			}
			c, _ := newCA(t, dir)
			before := strings.Join(names(t, dir), " ")
			if _, _, err := issue(c); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Issue = %v, want %q", err, tt.want)
			}
			if got := strings.Join(names(t, dir), " "); got != before {
				t.Errorf("files %q, were %q", got, before)
			}
		})
	}
}

// TestPasswords checks that new keys are encrypted with their passwords, and that another password
// is an error.
func TestPasswords(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(rootPasswordVar, "root's")
	c, _ := newCA(t, dir)
	c.cfg.Password = "key's"
	if _, _, err := issue(c); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"signkey.pem", rootKeyName} {
		if b, _ := pem.Decode(read(t, dir, name)); b == nil || b.Type != "ENCRYPTED PRIVATE KEY" {
			t.Errorf("%s is %v", name, b)
		}
	}
	if _, _, err := issue(c); err != nil {
		t.Error(err)
	}
	c.cfg.Password = "another"
	if _, _, err := issue(c); err == nil || !strings.Contains(err.Error(), "password") {
		t.Errorf("with another password: %v", err)
	}
}
