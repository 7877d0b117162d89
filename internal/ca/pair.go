package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ca/signer"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// maxFile is the size limit of a file with a key or certificates in bytes.
const maxFile = 1 << 20

// pair is a private key and its certificate, a PEM file each.
type pair struct {
	keyDir, certDir   *safefile.Dir
	keyName, certName string

	key  crypto.Signer     // nil before it is loaded
	cert *x509.Certificate // nil before it is loaded
}

// openPair opens the directories of the two files.
func openPair(key, cert string) (*pair, error) {
	keyDir, err := safefile.Open(filepath.Dir(key))
	if err != nil {
		return nil, err
	}
	certDir, err := safefile.Open(filepath.Dir(cert))
	if err != nil {
		keyDir.Close()
		return nil, err
	}
	return &pair{keyDir: keyDir, certDir: certDir, keyName: filepath.Base(key), certName: filepath.Base(cert)}, nil
}

func (p *pair) close() {
	p.keyDir.Close()
	p.certDir.Close()
}

// errNoPEM means that a file has no PEM block of the expected type.
var errNoPEM = errors.New("not found in the file")

// loadKey loads the key. The error is fs.ErrNotExist if there is no file, and errNoPEM if
// it has no key. Users other than the owner and the group must have no access to it.
func (p *pair) loadKey(password string, log Log) error {
	text, mode, err := p.keyDir.Read(p.keyName, maxFile)
	if err != nil {
		return err
	}
	defer clear(text)
	path := p.keyDir.Path(p.keyName)
	switch {
	case !hasBlock(text, "PRIVATE KEY"):
		return fmt.Errorf("%q: private key: %w", path, errNoPEM)
	case mode&0o007 != 0:
		return fmt.Errorf("the mode of %q is %#o, so all users can access the key: chmod 0600 %s", path, mode, path)
	case mode&0o020 != 0:
		log.Errorf("The mode of %s is %#o, so its group can change the key; chmod 0600 prevents that.", path, mode)
	}
	p.key, err = signer.ParsePEM(text, []byte(password))
	return err
}

// loadCert loads the certificate. The error is fs.ErrNotExist if there is no file, and
// errNoPEM if it has no certificate.
func (p *pair) loadCert() error {
	text, _, err := p.certDir.Read(p.certName, maxFile)
	if err != nil {
		return err
	}
	all, err := parseCertificates(text)
	switch {
	case err != nil:
		return fmt.Errorf("certificate in %q: %w", p.certDir.Path(p.certName), err)
	case len(all) == 0:
		return fmt.Errorf("%q: certificate: %w", p.certDir.Path(p.certName), errNoPEM)
	}
	p.cert = all[0]
	return nil
}

// load loads the existing files of the pair. It renames a file without a key or certificate, and
// a certificate of another key, instead of removing them, because someone may need them.
func (p *pair) load(password string, log Log) error {
	err := p.loadKey(password, log)
	if errors.Is(err, errNoPEM) {
		err = setAside(p.keyDir, p.keyName, "no private key", log)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err = p.loadCert()
	if errors.Is(err, errNoPEM) {
		err = setAside(p.certDir, p.certName, "no certificate", log)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if p.cert != nil && (p.key == nil || !belongs(p.cert, p.key.Public())) {
		p.cert = nil
		return setAside(p.certDir, p.certName, "the certificate of another key", log)
	}
	return nil
}

// setAside renames a useless file. It removes an empty one.
func setAside(dir *safefile.Dir, name, why string, log Log) error {
	if b, _, err := dir.Read(name, maxFile); err == nil && len(b) == 0 {
		return dir.Remove(name)
	}
	for n := range 100 {
		old := name + ".old"
		if n > 0 {
			old += fmt.Sprintf(".%d", n)
		}
		err := dir.Rename(name, old)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			log.Errorf("%s has %s; renamed to %s.", dir.Path(name), why, old)
		}
		return err
	}
	return fmt.Errorf("cannot rename %q: %s.old to %s.old.99 exist", dir.Path(name), name, name)
}

// storeKey writes the key, encrypted with the password unless that is "".
func (p *pair) storeKey(key crypto.Signer, password string) error {
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	defer clear(b)
	block := pem.Block{Type: "PRIVATE KEY", Bytes: b}
	if password != "" {
		block.Type = "ENCRYPTED PRIVATE KEY"
		if block.Bytes, err = signer.Encrypt(b, []byte(password)); err != nil {
			return err
		}
	}
	text := pem.EncodeToMemory(&block)
	defer clear(text)
	if err := p.keyDir.Write(p.keyName, tempName(p.keyName), text, 0o600, true); err != nil {
		return err
	}
	p.key = key
	return nil
}

// storeCert writes the certificate, in DER.
func (p *pair) storeCert(der []byte) (err error) {
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return p.certDir.Write(p.certName, tempName(p.certName), text, 0o644, true)
}

// tempName returns the temporary name of a file, for the holder of the lock.
func tempName(name string) string { return ".new." + name }

// generate returns a new key, or an error if ctx ends first.
func generate(ctx context.Context) (crypto.Signer, error) {
	return program.Await(ctx, func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, keyBits) })
}

// hasBlock reports whether text has a PEM block whose type ends in kind.
func hasBlock(text []byte, kind string) bool {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return false
		}
		clear(block.Bytes)
		if strings.HasSuffix(block.Type, kind) {
			return true
		}
	}
}

// parseCertificates returns all certificates in PEM text.
func parseCertificates(text []byte) (all []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return all, nil
		}
		if block.Type != "CERTIFICATE" && block.Type != "X509 CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
}
