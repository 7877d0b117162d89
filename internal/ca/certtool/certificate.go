package certtool

import (
	"crypto"
	"crypto/x509"
	"errors"
	"math/big"
	"os"
	"time"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/tool"
)

// Certificate returns what Run would write to the file of --out-cert, for a
// caller that has the issuer's certificate and the key that signs: what args say
// of those does not matter. Nothing is written anywhere.
func Certificate(args []string, issuer *x509.Certificate, key crypto.Signer, now time.Time) ([]byte, error) {
	o := &options{request: cert.Request{Serial: big.NewInt(1), Days: 365}}
	o.key.exponent, o.key.curve = 0x10001, defaultCurve
	defer func() { clear(o.password); clear(o.parentPassword) }()
	if _, err := tool.Parse(o.table(os.LookupEnv), args, func(err error) error { return err }); err != nil {
		return nil, err
	}
	if o.help || o.version || o.capabilities || o.shell != "" {
		return nil, errors.New("an option of swtpm_cert that makes no certificate")
	}
	o.signKey, o.issuerCert = "key", "certificate" // are here
	if err := o.check(); err != nil {
		return nil, err
	}
	r := o.request
	var err error
	if r.Key, err = o.key.read(); err != nil {
		return nil, err
	}
	r.NotBefore = now
	b, err := cert.Create(&r, issuer, key)
	switch {
	case errors.Is(err, cert.ErrHashless):
		return nil, tool.Complain("Cannot use hashless signing scheme for TPM 1.2 certs.")
	case err != nil:
		return nil, tool.Complain("Could not create the certificate. %s", reason(err))
	}
	if o.pem {
		b = cert.PEM(b)
	}
	if o.header {
		return cert.AddHeader(b)
	}
	return b, nil
}
