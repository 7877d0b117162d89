package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// Bundle returns the certificates that a verifier needs, in PEM: the certificate of the
// root CA, if its file exists, and the certificate of the signing key. It creates nothing. It fails
// with fs.ErrNotExist if there is no CA.
func (c *CA) Bundle() ([]byte, error) {
	chain, err := c.certificates(c.cfg.IssuerCert)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the CA does not exist yet; issuing a certificate creates it: %w", err)
	case err != nil:
		return nil, err
	case len(chain) == 0:
		return nil, fmt.Errorf("no PEM certificate in %q", c.cfg.IssuerCert)
	}
	root, err := c.root()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	last := chain[len(chain)-1]
	if root != nil && last.CheckSignatureFrom(root) == nil && !root.Equal(last) {
		chain = append([]*x509.Certificate{root}, chain...)
	}
	for _, cert := range chain {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// root returns the certificate of the root CA, nil if it has no file here: an external CA
// may have issued the certificate of the signing key.
func (c *CA) root() (*x509.Certificate, error) {
	neighbor := c.cfg.SigningKey
	if c.cfg.InToken() {
		neighbor = c.cfg.IssuerCert
	}
	all, err := c.certificates(filepath.Join(filepath.Dir(neighbor), rootCertName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil || len(all) == 0:
		return nil, err
	}
	return all[0], nil
}

// certificates returns all certificates in a PEM file.
func (c *CA) certificates(path string) ([]*x509.Certificate, error) {
	dir, err := safefile.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	text, _, err := dir.Read(filepath.Base(path), maxFile)
	if err != nil {
		return nil, err
	}
	all, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("certificate in %q: %w", path, err)
	}
	return all, nil
}
