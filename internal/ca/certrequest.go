package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"os"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
)

// certRequest is a certificate as options of swtpm_cert describe it, without its signing
// key, issuer and file.
type certRequest struct {
	cert.Request // except for Key

	Header bool // --add-header
	PEM    bool // --pem

	key             keyOptions
	level, revision bool // --tpm-spec-level, --tpm-spec-revision were given
}

// parseCertRequest returns the certRequest that args describe. It ignores options for the
// signing key, the issuer and the output file.
func parseCertRequest(args []string) (*certRequest, error) {
	o := newOptions()
	defer o.clear()
	if _, err := (cli.Getopt{OneDash: true}).Parse(o.table(os.LookupEnv), args); err != nil {
		return nil, err
	}
	if o.help || o.version || o.capabilities || o.shell != "" {
		return nil, errors.New("an option of swtpm_cert that makes no certificate")
	}
	return &o.certRequest, nil
}

// SetSpec sets the specification of the TPM.
func (r *certRequest) SetSpec(s cert.Spec) { r.Spec, r.level, r.revision = s, true, true }

// SetKey sets the key to certify, an *rsa.PublicKey or *ecdsa.PublicKey.
func (r *certRequest) SetKey(key crypto.PublicKey) error {
	kind := ""
	switch key.(type) {
	case *rsa.PublicKey:
		kind = kindRSA
	case *ecdsa.PublicKey:
		kind = kindEC
	}
	k, err := cert.NewKey(key)
	if err != nil {
		return err
	}
	return r.key.option(kind, func(string) error { r.key.parsed = &k; return nil })("", "")
}

// Check returns an error if a part of the request is missing.
func (r *certRequest) Check() error {
	if err := r.key.check(); err != nil {
		return err
	}
	return r.checkFields()
}

// checkFields returns an error if a field is missing.
//
// Compat: C-268: the words and the required fields equal swtpm_cert.
func (r *certRequest) checkFields() error {
	switch r.Type {
	case cert.IAK, cert.IDevID:
		if r.TPMSerial == "" {
			return cli.Complain("--tpm-serial-num must be provided")
		}
		return nil
	case cert.EK:
		if r.Spec.Family == "" || !r.level || !r.revision {
			return cli.Complain("--tpm-spec-family and --tpm-spec-level and --tpm-spec-revision must all be provided.")
		}
	case cert.Platform:
		if incomplete(r.Platform) {
			return cli.Complain("--platform-manufacturer and --platform-model and --platform-version must all be provided.")
		}
	}
	if incomplete(r.TPM) {
		return cli.Complain("--tpm-manufacturer and --tpm-model and --tpm-version must all be provided.")
	}
	return nil
}

func incomplete(a cert.Attributes) bool {
	return a.Manufacturer == "" || a.Model == "" || a.Version == ""
}

// Create returns the certificate, signed by key, in the format that --pem and --add-header ask
// for. Serial and NotBefore must be set.
func (r *certRequest) Create(issuer *x509.Certificate, key crypto.Signer) ([]byte, error) {
	var err error
	if r.Key, err = r.key.read(); err != nil {
		return nil, err
	}
	der, err := r.sign(issuer, key)
	if err != nil {
		return nil, err
	}
	return r.encode(der)
}

// sign returns the certificate in DER, signed by key.
func (r *certRequest) sign(issuer *x509.Certificate, key crypto.Signer) ([]byte, error) {
	der, err := cert.Create(&r.Request, issuer, key)
	switch {
	case errors.Is(err, cert.ErrHashless):
		return nil, cli.Complain("Cannot use hashless signing scheme for TPM 1.2 certs.")
	case err != nil:
		return nil, cli.Complain("Could not create the certificate. %s", reason(err))
	}
	return der, nil
}

// encode returns der in the format that --pem and --add-header ask for. They may be combined.
func (r *certRequest) encode(der []byte) ([]byte, error) {
	b := der
	if r.PEM {
		b = cert.PEM(der)
	}
	if !r.Header {
		return b, nil
	}
	b, err := cert.AddHeader(b)
	if err != nil {
		return nil, cli.Complain("Could not write certificate header. %s", reason(err))
	}
	return b, nil
}
