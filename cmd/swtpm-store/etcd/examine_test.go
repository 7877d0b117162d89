package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// authority issues certificates into files.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca", -time.Hour, time.Hour*24*365, nil)
	return a
}

// issue makes a certificate that is valid from and until these times from now.
func (a *authority) issue(name string, from, until time.Duration, parent *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	issuer, signer := template, key
	if parent == nil {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	} else {
		issuer, signer = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".crt", "CERTIFICATE", der)
	a.write(name+".key", "EC PRIVATE KEY", private)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(name, kind string, der []byte) {
	if err := os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// client returns the settings of a host that trusts trusted and has a certificate of a.
func (a *authority) client(name string, trusted *authority) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(trusted.cert)
	return &tls.Config{RootCAs: pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(a.path(name+".crt"), a.path(name+".key"))
		return &pair, err
	}}
}

// TestCertificates checks that each fault of a certificate is found by its name, and that it is in
// the error of a request, which the client library calls "deadline exceeded".
func TestCertificates(t *testing.T) {
	const day = 24 * time.Hour
	good, other := newAuthority(t), newAuthority(t)
	good.issue("server", -time.Hour, 90*day, good)
	good.issue("old-server", -2*time.Hour, -time.Hour, good)
	good.issue("host", -time.Hour, 90*day, good)
	good.issue("old-host", -2*time.Hour, -time.Hour, good)
	good.issue("soon-host", -time.Hour, 3*day, good)
	good.issue("future-host", day, 3*day, good)
	other.issue("host", -time.Hour, 90*day, other)
	for _, x := range []struct {
		name, server string
		tls          *tls.Config
		want         string // in a finding
		request      string // in the error of a request; "" for none
	}{
		{"valid", "server", good.client("host", good), "", ""},
		{"host soon expired", "server", good.client("soon-host", good), "certificate of this host expires at", ""},
		{"host expired", "server", good.client("old-host", good), "certificate of this host expired at", "refuses the certificate of this host"},
		{"host not yet valid", "server", good.client("future-host", good), "the clock of this host says", "refuses the certificate of this host"},
		{"host of another CA", "server", other.client("host", good), "refuses the certificate of this host", "refuses the certificate of this host"},
		{"member expired", "old-server", good.client("host", good), "certificate has expired", "certificate has expired"},
		{"member of another CA", "server", good.client("host", other), "unknown authority", "unknown authority"},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := etcdtest.Start(t, "--cert-file="+good.path(x.server+".crt"), "--key-file="+good.path(x.server+".key"), "--client-cert-auth", "--trusted-ca-file="+good.path("ca.crt"), "--log-level=panic")
			s := open(t, Options{Endpoints: []string{m.URL}, TLS: x.tls, Prefix: "/swtpm"})
			found := s.Examine(t.Context())
			if x.want == "" != (len(found) == 0) || x.want != "" && !has(found, driver.Certificate, x.want) {
				t.Errorf("found %+v, want %q", found, x.want)
			}
			if (x.request != "") != has(found, driver.Quorum, "no majority") {
				t.Errorf("found %+v: wrong finding of the quorum", found)
			}
			wantRequest(t, s, x.request)
		})
	}
}

// wantRequest checks the error of a request, in a later try at the latest: the cause is found in
// the background.
func wantRequest(t *testing.T, s *Store, want string) {
	t.Helper()
	if want == "" {
		if _, err := s.List(t.Context()); err != nil {
			t.Errorf("request: %v", err)
		}
		return
	}
	var err error
	found := harness.Until(func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = s.List(ctx)
		return err != nil && strings.Contains(err.Error(), want)
	})
	if found != nil || !errors.Is(err, driver.ErrUnreachable) {
		t.Errorf("request: %v, want %q", err, want)
	}
}

func open(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.times.probe = harness.EventTimeout // on a busy machine
	return s
}

// has reports whether there is a finding of this kind with text.
func has(found []driver.Finding, p driver.Problem, text string) bool {
	for _, f := range found {
		if f.Problem == p && strings.Contains(f.Text, text) {
			return true
		}
	}
	return false
}

// TestUnreachable checks a member that does not listen: certain that nothing was written.
func TestUnreachable(t *testing.T) {
	s := open(t, Options{Endpoints: []string{"http://127.0.0.1:1"}, Prefix: "/swtpm"})
	if found := s.Examine(t.Context()); !has(found, driver.Unreachable, "connection refused") {
		t.Errorf("found %+v", found)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := s.Write(ctx, "vm1", 1, 1, driver.Change{}); !errors.Is(err, driver.ErrUnreachable) || errors.Is(err, driver.ErrUnknown) {
		t.Errorf("Write: %v, want ErrUnreachable", err)
	}
	wantRequest(t, s, "connection refused")
}

// TestNoQuorum checks three members, of which one and then two are killed.
func TestNoQuorum(t *testing.T) {
	all := etcdtest.StartThree(t)
	s := open(t, Options{Endpoints: []string{all[0].URL, all[1].URL, all[2].URL}, Prefix: "/swtpm"})
	all[1].Kill()
	var found []driver.Finding
	harness.Await(t, "one warning without one member", func() bool { // until a leader is elected
		found = s.Examine(t.Context())
		return len(found) == 1 && found[0].Warning && found[0].Problem == driver.Unreachable
	})
	all[2].Kill()
	harness.Await(t, "the last one has no leader", func() bool {
		found = s.Examine(t.Context())
		return has(found, driver.Quorum, "has no leader")
	})
	if !has(found, driver.Quorum, "2 of 3 members do not answer") {
		t.Errorf("without two members: %+v", found)
	}
}

// TestFull checks the alarm of a database that reached its quota.
func TestFull(t *testing.T) {
	m := etcdtest.Start(t, "--quota-backend-bytes=200000")
	s := open(t, Options{Endpoints: []string{m.URL}, Prefix: "/swtpm"})
	var err error
	harness.Await(t, "an error", func() bool { // etcd learns its size when it commits, ten times a second
		_, err = s.client.Put(t.Context(), "/filler", strings.Repeat("x", 100000))
		time.Sleep(20 * time.Millisecond)
		return err != nil
	})
	if !errors.Is(classify(err, driver.ErrUnknown), driver.ErrQuota) {
		t.Fatalf("Put: %v, want ErrQuota", err)
	}
	if found := s.Examine(t.Context()); !has(found, driver.Quota, "NOSPACE") {
		t.Errorf("found %+v", found)
	}
}

// TestSnapshot checks that a state is read from a snapshot, and from the database of a member that
// was killed.
func TestSnapshot(t *testing.T) {
	m := etcdtest.Start(t)
	s := open(t, Options{Endpoints: []string{m.URL}, Prefix: "/swtpm"})
	lease, err := s.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.Acquire(t.Context(), "vm1", lease, driver.Owner{Host: "a", Nonce: "n"})
	if err != nil {
		t.Fatal(err)
	}
	last := driver.Revision(0)
	for n := uint64(1); n <= 3; n++ {
		items := driver.Items{"tpm2-00.permall": []byte{byte(n)}}
		if last, err = s.Write(t.Context(), "vm1", token, last, driver.Change{Put: items, Head: driver.Head{Generation: n, Sum: items.Sum()}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Release(t.Context(), "vm1", token, driver.Sum{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "snapshot")
	m.Snapshot(t, file)
	m.Kill()
	for _, f := range []string{file, filepath.Join(m.Dir, "member/snap/db")} {
		state, err := ReadSnapshot(f, "/swtpm", "vm1")
		if err != nil {
			t.Error(err)
			continue
		}
		if string(state.Items["tpm2-00.permall"]) != "\x03" || state.Head.Generation != 3 || state.Head.Sum != state.Items.Sum() || state.Epoch != 1 || state.Owner != nil {
			t.Errorf("%s: %+v", f, state)
		}
		if _, err := ReadSnapshot(f, "/swtpm", "vm"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("another name: %v", err)
		}
	}
	if _, err := ReadSnapshot("/etc/passwd", "/swtpm", "vm1"); err == nil {
		t.Error("a file that is no database was read")
	}
}

// TestMayWrite checks that a user without the right to write is found before a TPM needs it, and that
// the look changes nothing.
func TestMayWrite(t *testing.T) {
	m := etcdtest.Start(t)
	admin := open(t, Options{Endpoints: []string{m.URL}, Prefix: "/swtpm"})
	ctx, c := t.Context(), admin.client
	before, err := admin.Position(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if found := admin.Examine(ctx); len(found) != 0 {
		t.Errorf("without users: %+v", found)
	}
	if after, err := admin.Position(ctx); err != nil || after != before {
		t.Errorf("the store is at %+v, %v, and was at %+v", after, err, before)
	}
	for user, kind := range map[string]clientv3.PermissionType{"root": clientv3.PermissionType(clientv3.PermReadWrite), "reads": clientv3.PermissionType(clientv3.PermRead), "writes": clientv3.PermissionType(clientv3.PermReadWrite)} {
		_, err1 := c.UserAdd(ctx, user, "secret")
		_, err2 := c.RoleAdd(ctx, user)
		_, err3 := c.RoleGrantPermission(ctx, user, "/swtpm/", clientv3.GetPrefixRangeEnd("/swtpm/"), kind)
		_, err4 := c.UserGrantRole(ctx, user, user)
		if err := errors.Join(err1, err2, err3, err4); err != nil && user != "root" {
			t.Fatal(err)
		}
	}
	if _, err := c.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"reads": "grant the user", "writes": "", "": "names no user"} {
		o := Options{Endpoints: []string{m.URL}, Prefix: "/swtpm", User: user}
		if user != "" {
			o.Password = "secret"
		}
		s := open(t, o)
		s.times.probe = harness.EventTimeout // on a busy machine
		found := s.Examine(ctx)
		if want == "" && len(found) != 0 || want != "" && !has(found, driver.Denied, want) {
			t.Errorf("user %q: %+v, want %q", user, found, want)
		}
	}
}
