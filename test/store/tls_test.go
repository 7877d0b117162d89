package store_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// authority issues certificates into files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t, dir: harness.TempDir(t)}
	a.cert, a.key = a.issue("ca", &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, time.Hour)
	return a
}

// issue writes NAME.crt and NAME.key, for 127.0.0.1. The certificate ends so long after now.
func (a *authority) issue(name string, c *x509.Certificate, end time.Duration) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-24*time.Hour), time.Now().Add(end)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	} else {
		c.Subject.CommonName = name
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.path(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return made, key
}

func (a *authority) path(file string) string { return filepath.Join(a.dir, file) }

// serve starts a member with a certificate of a. It wants one of a from its clients.
func (a *authority) serve(name string) (url string) {
	port, peer := harness.FreePort(a.t), harness.FreePort(a.t)
	url = fmt.Sprintf("https://127.0.0.1:%d", port)
	at := fmt.Sprintf("http://127.0.0.1:%d", peer)
	p := harness.Start(a.t, exec.Command("etcd", "--name=one", "--data-dir="+harness.TempDir(a.t)+"/etcd", "--listen-client-urls="+url, "--advertise-client-urls="+url,
		"--listen-peer-urls="+at, "--initial-advertise-peer-urls="+at, "--initial-cluster=one="+at, "--logger=zap", "--log-level=error",
		"--cert-file="+a.path(name+".crt"), "--key-file="+a.path(name+".key"), "--trusted-ca-file="+a.path("ca.crt"), "--client-cert-auth"))
	harness.Await(a.t, "the member", func() bool { return p.Ended() || harness.ListensTCP(port) })
	return url
}

// TestCertificates checks that a broker reports wrong and expired certificates, on either side.
func TestCertificates(t *testing.T) {
	harness.Need(t, "etcd", "etcd-server")
	own, foreign := newAuthority(t, "own"), newAuthority(t, "foreign")
	own.issue("server", &x509.Certificate{}, time.Hour)
	own.issue("client", &x509.Certificate{}, time.Hour)
	own.issue("old", &x509.Certificate{}, -time.Hour)
	foreign.issue("client", &x509.Certificate{}, time.Hour)
	good, old := own.serve("server"), own.serve("old")
	for _, x := range []struct {
		name, url, ca, client, want string
	}{
		{"right", good, own.path("ca"), own.path("client"), ""},
		{"expired client", good, own.path("ca"), own.path("old"), "expired"},
		{"client of another CA", good, own.path("ca"), foreign.path("client"), "certificate"},
		{"no client certificate", good, own.path("ca"), "", "certificate"},
		{"another CA", good, foreign.path("ca"), own.path("client"), "unknown authority"},
		{"expired server", old, own.path("ca"), own.path("client"), "expired"},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			config := filepath.Join(harness.TempDir(t), "store.toml")
			text := fmt.Sprintf("endpoints = [%q]\n[tls]\nca = %q\n", x.url, x.ca+".crt")
			if x.client != "" {
				text += fmt.Sprintf("certificate = %q\nkey = %q\n", x.client+".crt", x.client+".key")
			}
			if err := os.WriteFile(config, []byte(text+"[[allow]]\nusers = [\"*\"]\nstates = [\"*\"]\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			var out []byte
			var err error
			if harness.Until(func() bool { // on a busy machine a member does not answer in time
				out, err = exec.Command(filepath.Join(bin, "swtpm-store"), "--config", config, "--check").CombinedOutput()
				return (err != nil) == (x.want != "") && strings.Contains(string(out), x.want)
			}) != nil {
				t.Errorf("%v: %s; want %q", err, out, x.want)
			}
		})
	}
}
