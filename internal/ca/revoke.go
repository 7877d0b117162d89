package ca

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path/filepath"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// revokedName is the name of the file with the revoked certificates, in the state
// directory. Each has a line with its serial number in decimal digits and the time of
// the revocation:
//
//	147183716251939017728 2026-11-29T14:30:00Z
const revokedName = "revoked"

// maxRevoked is the size limit of that file in bytes: space for 300,000 certificates.
const maxRevoked = 16 << 20

// tpm12Header is the size of the header of a certificate in the NVRAM of a TPM 1.2.
const tpm12Header = 7

// IssuedSerial returns a serial number. name is that number in decimal digits, or the path of a
// file with the certificate, which this CA must have issued, in DER or PEM.
func (c *CA) IssuedSerial(name string) (*big.Int, error) {
	if n, ok := parseSerial(name); ok {
		return n, nil
	}
	dir, err := safefile.Open(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	b, _, err := dir.Read(filepath.Base(name), maxFile)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	if bytes.HasPrefix(b, []byte{0x10, 0x01, 0x00}) && len(b) > tpm12Header {
		b = b[tpm12Header:]
	}
	crt, err := x509.ParseCertificate(b)
	if err != nil {
		return nil, fmt.Errorf("certificate in %q: %w", name, err)
	}
	issuer, err := c.issuerCert()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(crt.RawIssuer, issuer.RawSubject) || !bytes.Equal(crt.AuthorityKeyId, issuer.SubjectKeyId) {
		return nil, fmt.Errorf("the certificate in %q was not issued by this CA, whose certificate is %q", name, c.cfg.IssuerCert)
	}
	return crt.SerialNumber, nil
}

// parseSerial parses a serial number in decimal digits.
func parseSerial(s string) (*big.Int, bool) {
	if s == "" || len(s) > serialDigits || strings.Trim(s, "0123456789") != "" {
		return nil, false
	}
	n, ok := new(big.Int).SetString(s, 10)
	return n, ok && n.Cmp(cert.MaxSerial) <= 0
}

// Revoke adds serial to the revoked certificates and returns the time of its revocation. If it
// is revoked already, that is the time of the first call.
func (c *CA) Revoke(ctx context.Context, serial *big.Int) (time.Time, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer unlock()
	all, err := c.revoked()
	if err != nil {
		return time.Time{}, err
	}
	for _, r := range all {
		if r.SerialNumber.Cmp(serial) == 0 {
			return r.RevocationTime, nil
		}
	}
	now := c.now().UTC().Truncate(time.Second)
	all = append(all, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: now})
	var text bytes.Buffer
	for _, r := range all {
		fmt.Fprintf(&text, "%s %s\n", r.SerialNumber, r.RevocationTime.Format(time.RFC3339))
	}
	dir, err := safefile.Open(c.cfg.StateDir)
	if err != nil {
		return time.Time{}, err
	}
	defer dir.Close()
	return now, dir.Write(revokedName, tempName(revokedName), text.Bytes(), 0o644, true)
}

// revoked returns the revoked certificates, the oldest first.
func (c *CA) revoked() (all []x509.RevocationListEntry, err error) {
	dir, err := safefile.Open(c.cfg.StateDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	text, _, err := dir.Read(revokedName, maxRevoked)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	line := 0
	for s := range strings.Lines(string(text)) {
		line++
		number, date, _ := strings.Cut(strings.TrimSuffix(s, "\n"), " ")
		serial, ok := parseSerial(number)
		at, err := time.Parse(time.RFC3339, date)
		if !ok || err != nil || !strings.HasSuffix(s, "\n") {
			return nil, fmt.Errorf("%s:%d: invalid line %q, expected a serial number and a time; correct or remove it", dir.Path(revokedName), line, strings.TrimSuffix(s, "\n"))
		}
		all = append(all, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: at})
	}
	return all, nil
}
