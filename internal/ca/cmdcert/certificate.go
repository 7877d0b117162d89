package cmdcert

import (
	"crypto"
	"crypto/x509"
	"errors"
	"os"
	"time"

	"github.com/swtpm-go/swtpm/internal/cli"
)

// Certificate returns what Run would write to the file of --out-cert, for a
// caller that has the issuer's certificate and the key that signs: what args say
// of those does not matter. Nothing is written anywhere.
func Certificate(args []string, issuer *x509.Certificate, key crypto.Signer, now time.Time) ([]byte, error) {
	o := newOptions()
	defer o.clear()
	if _, err := cli.Parse(o.table(os.LookupEnv), args, func(err error) error { return err }); err != nil {
		return nil, err
	}
	if o.help || o.version || o.capabilities || o.shell != "" {
		return nil, errors.New("an option of swtpm_cert that makes no certificate")
	}
	o.signKey, o.issuerCert = "key", "certificate" // are here
	if err := o.check(); err != nil {
		return nil, err
	}
	var err error
	if o.request.Key, err = o.key.read(); err != nil {
		return nil, err
	}
	der, err := o.create(issuer, key, now)
	if err != nil {
		return nil, err
	}
	return o.encode(der)
}
