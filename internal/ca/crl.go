package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/swtpm-go/swtpm/internal/ca/signer"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// crlNumberName is the name of the file with the number of the last revocation
// list, in decimal digits, in the state directory.
const crlNumberName = "crlnumber"

// RevocationList returns a signed list of the revoked certificates in DER, which expires
// after the given number of days.
//
// The certificate of the signing key must allow it to sign lists. The certificate of a new CA
// does not, so RevocationList replaces it by one for the same key that does. All certificates of
// TPMs remain valid.
//
// Source: RFC 5280, 5.
func (c *CA) RevocationList(ctx context.Context, days int) ([]byte, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, crt, err := c.openKey()
	if err != nil {
		return nil, err
	}
	defer key.Close()
	if crt.KeyUsage&x509.KeyUsageCRLSign == 0 {
		if crt, err = c.renewForLists(key); err != nil {
			return nil, err
		}
	}
	all, err := c.revoked()
	if err != nil {
		return nil, err
	}
	number, err := c.nextListNumber()
	if err != nil {
		return nil, err
	}
	now := c.now().UTC().Truncate(time.Second)
	der, err := x509.CreateRevocationList(c.random, &x509.RevocationList{
		Number: number, ThisUpdate: now, NextUpdate: now.AddDate(0, 0, days), RevokedCertificateEntries: all,
	}, crt, key)
	if err != nil {
		return nil, fmt.Errorf("sign the revocation list with %q: %w", signer.WithoutPIN(c.cfg.SigningKey), err)
	}
	return der, nil
}

// renewForLists replaces the certificate of the signing key by one that allows it
// to sign revocation lists. The caller holds the lock.
func (c *CA) renewForLists(key *signer.Key) (*x509.Certificate, error) {
	const remedy = "have the root CA issue a certificate for the same key with the key usages keyCertSign and cRLSign"
	if c.cfg.InToken() {
		return nil, fmt.Errorf("the certificate in %q does not allow its key to sign revocation lists; %s", c.cfg.IssuerCert, remedy)
	}
	dir := filepath.Dir(c.cfg.SigningKey)
	root, err := openPair(filepath.Join(dir, rootKeyName), filepath.Join(dir, rootCertName))
	if err != nil {
		return nil, err
	}
	defer root.close()
	err = root.loadKey(os.Getenv(rootPasswordVar), c.log)
	if err == nil {
		err = root.loadCert()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the certificate in %q does not allow its key to sign revocation lists, and the key or the certificate of the root CA is missing in %q: put %s and %s back for this call, or %s",
			c.cfg.IssuerCert, dir, rootKeyName, rootCertName, remedy)
	case errors.Is(err, signer.ErrPassword):
		return nil, fmt.Errorf("%w: set %s to the password of the root CA's key, %q", err, rootPasswordVar, root.keyDir.Path(rootKeyName))
	case err != nil:
		return nil, fmt.Errorf("root CA: %w", err)
	case !belongs(root.cert, root.key.Public()):
		return nil, fmt.Errorf("root CA: the certificate in %q does not belong to the key in %q", root.certDir.Path(rootCertName), root.keyDir.Path(rootKeyName))
	}
	der, err := caCertificate(c.random, c.now(), key.Public(), root.cert, root.key, signsCertsAndCRLs)
	if err != nil {
		return nil, fmt.Errorf("certificate of the signing key: %w", err)
	}
	local, err := openPair(c.cfg.SigningKey, c.cfg.IssuerCert)
	if err != nil {
		return nil, err
	}
	defer local.close()
	if err := local.storeCert(der); err != nil {
		return nil, fmt.Errorf("certificate of the signing key: %w", err)
	}
	c.log.Infof("Issued a new certificate %s, which allows the same key to sign revocation lists.", c.cfg.IssuerCert)
	return local.cert, nil
}

// nextListNumber returns the number of a new list, which it has stored. The caller holds the
// lock.
func (c *CA) nextListNumber() (*big.Int, error) {
	dir, err := safefile.Open(c.cfg.StateDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	next := big.NewInt(1)
	text, _, err := dir.Read(crlNumberName, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		last, ok := parseSerial(string(text))
		if !ok {
			return nil, fmt.Errorf("%q: %q is not the number of a revocation list; write the number of the last list into it", dir.Path(crlNumberName), text)
		}
		next.Add(last, next)
	}
	return next, dir.Write(crlNumberName, tempName(crlNumberName), []byte(next.String()), 0o644, true)
}
