// Package ca is a local certificate authority for TPMs. It has a root key and a key that
// issues certificates, each with its certificate, in files that swtpm_localca can use, too. It
// creates them on first use, assigns serial numbers, issues certificates (Issue), revokes them
// and returns the certificates for verifiers. It also contains the command line of swtpm_cert,
// because the options file of a CA has the same options. Package cert builds the certificates,
// package signer opens the keys.
package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/ca/signer"
	"github.com/swtpm-go/swtpm/internal/cli"
)

// Log prints messages, one per call, without newline.
type Log interface {
	Infof(format string, args ...any)
	Errorf(format string, args ...any)
}

// CA is a local CA. Several CAs and processes may use the same files at the same time, but only
// one goroutine at a time may use a CA.
type CA struct {
	cfg     *Config
	log     Log
	options []string // words of the options file

	expected int      // number of certificates that Expect announced
	session  *session // nil before the first of them

	random io.Reader
	now    func() time.Time
	newKey func(ctx context.Context) (crypto.Signer, error)
}

// New returns the CA that cfg describes. It does not access any file.
func New(cfg *Config, log Log) *CA {
	return &CA{cfg: cfg, log: log, random: rand.Reader, now: time.Now, newKey: generate}
}

// session is an open signing key with serial numbers that the CA has reserved.
type session struct {
	key     *signer.Key
	cert    *x509.Certificate
	serials []*big.Int
}

// Expect announces that n certificates will be issued. The first Issue opens the signing key
// for all of them and reserves their serial numbers, so that the file with the serial number is
// synced once instead of n times. Reserved numbers that are not used are lost. Close closes the
// key.
func (c *CA) Expect(n int) { c.expected = n }

// Close closes the signing key that Expect has kept open.
func (c *CA) Close() error {
	if c.session == nil {
		return nil
	}
	err := c.session.key.Close()
	c.session = nil
	return err
}

// open creates the CA if there is none, opens the signing key and reserves n serial
// numbers.
func (c *CA) open(ctx context.Context, n int) (*session, error) {
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	key, cert, err := c.openKey()
	if err != nil {
		return nil, err
	}
	serials, err := c.nextSerials(ctx, n)
	if err != nil {
		return nil, errors.Join(err, key.Close())
	}
	return &session{key, cert, serials}, nil
}

// issue calls build with a serial number that no other certificate has, and returns
// the certificate that build returns. It creates the CA if there is none. key is valid
// until build returns.
func (c *CA) issue(ctx context.Context, build func(serial *big.Int, issuer *x509.Certificate, key crypto.Signer) ([]byte, error)) ([]byte, error) {
	s := c.session
	if s == nil || len(s.serials) == 0 {
		if err := c.Close(); err != nil {
			return nil, err
		}
		var err error
		if s, err = c.open(ctx, max(c.expected, 1)); err != nil {
			return nil, err
		}
		if c.expected > 0 {
			c.session, c.expected = s, 0
		} else {
			defer s.key.Close()
		}
	}
	serial := s.serials[0]
	s.serials = s.serials[1:]
	return build(serial, s.cert, s.key)
}

// prepare creates missing directories and a missing CA.
func (c *CA) prepare(ctx context.Context) error {
	for _, dir := range []struct{ key, path string }{
		{"statedir", c.cfg.StateDir},
		{"signingkey", filepath.Dir(c.cfg.SigningKey)},
		{"issuercert", filepath.Dir(c.cfg.IssuerCert)},
		{"certserial", filepath.Dir(c.cfg.Serial)},
	} {
		if dir.key == "signingkey" && c.cfg.InToken() {
			continue
		}
		if err := c.makeDir(dir.key, dir.path); err != nil {
			return err
		}
	}
	if unix.Access(c.cfg.StateDir, unix.R_OK|unix.W_OK) != nil {
		return cli.Complain("Need read/write rights on statedir %s for user %s.%s", c.cfg.StateDir, cli.UserName(), cli.OwnFiles())
	}
	if c.cfg.InToken() {
		return nil
	}
	return c.ensure(ctx)
}

// makeDir creates the directory for a key of the configuration file, and its parents.
func (c *CA) makeDir(key, path string) error {
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return nil // other errors are reported when the directory is used
	}
	c.log.Infof("Creating swtpm-localca dir '%s'.", path)
	if err := os.MkdirAll(path, 0o770); err != nil {
		return cli.Complain("Could not create directory %s for '%s': %s.%s", path, key, cli.Strerror(err), cli.OwnFiles())
	}
	return nil
}

// openKey returns the signing key and its certificate.
func (c *CA) openKey() (*signer.Key, *x509.Certificate, error) {
	cert, err := c.issuerCert()
	if err != nil {
		return nil, nil, err
	}
	key, err := c.signingKey()
	if err != nil {
		return nil, nil, fmt.Errorf("signing key %q: %w", signer.WithoutPIN(c.cfg.SigningKey), err)
	}
	if !belongs(cert, key.Public()) {
		key.Close()
		return nil, nil, fmt.Errorf("the certificate in %q does not belong to the signing key %q", c.cfg.IssuerCert, signer.WithoutPIN(c.cfg.SigningKey))
	}
	return key, cert, nil
}

// signingKey opens the signing key.
func (c *CA) signingKey() (*signer.Key, error) {
	if !c.cfg.InToken() {
		p, err := openPair(c.cfg.SigningKey, c.cfg.IssuerCert)
		if err != nil {
			return nil, err
		}
		defer p.close()
		if err := p.loadKey(c.cfg.Password, c.log); err != nil {
			return nil, err
		}
		return &signer.Key{Signer: p.key}, nil
	}
	for _, v := range c.cfg.Env {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, fmt.Errorf("env:%s: %w", name, err)
		}
	}
	source := signer.Source{Key: c.cfg.SigningKey, PIN: c.cfg.PIN, TCTI: os.Getenv("TPM2TOOLS_TCTI"),
		Warn: func(s string) { c.log.Errorf("%s", s) }}
	if c.cfg.Password != "" {
		source.Password = []byte(c.cfg.Password)
	}
	if signer.Kind(source.Key) == "PKCS#11" {
		c.log.Infof("CA uses a PKCS#11 key; using SWTPM_PKCS11_PIN")
	}
	return signer.Open(source)
}

// issuerCert returns the certificate of the signing key.
func (c *CA) issuerCert() (*x509.Certificate, error) {
	all, err := c.certificates(c.cfg.IssuerCert)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return nil, cli.Complain("Need read rights on issuer certificate %s for user %s.%s", c.cfg.IssuerCert, cli.UserName(), cli.OwnFiles())
	case err != nil:
		return nil, fmt.Errorf("issuer certificate: %w", err)
	case len(all) == 0:
		return nil, fmt.Errorf("issuer certificate: no PEM certificate in %q", c.cfg.IssuerCert)
	}
	return all[0], nil
}

// belongs reports whether crt is a certificate of key.
func belongs(crt *x509.Certificate, key crypto.PublicKey) bool { return cert.Belongs(key, crt) }
