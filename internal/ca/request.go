package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"math/big"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
)

// optionsName is the name of the options file in the directories of configuration
// files.
const optionsName = "swtpm-localca.options"

// Request describes a certificate for a key of a TPM.
type Request struct {
	Type      cert.Type
	Key       crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey
	TPMSerial string           // serial number of the TPM, for IAK and IDevID; "" for none

	// Signing means that an EK may sign, Decryption that such a key also decrypts.
	Signing, Decryption bool

	TPM2    bool            // the TPM is a TPM 2.0
	VMID    string          // name of the virtual machine; "" for "unknown"
	Spec    cert.Spec       // specification of the TPM
	Product cert.Attributes // manufacturer, model and version of the TPM

	// Args, unless it is nil, contains options of swtpm_cert that replace Key, Spec
	// and Product. They override the options file.
	Args []string
}

// Label returns the name of the certificate in messages.
func (r *Request) Label() string {
	if r.Type == cert.EK {
		return "EK"
	}
	return r.Type.String()
}

// subject returns the subject of the certificate.
//
// Compat: C-272: characters that end a value become "_". A plus sign after a backslash and the
// backslash are not changed.
func (r *Request) subject() string {
	id := []byte(r.VMID)
	for i, c := range id {
		if c == ',' || c == '+' && (i == 0 || id[i-1] != '\\') {
			id[i] = '_'
		}
	}
	if r.VMID == "" {
		id = []byte("unknown")
	}
	if r.Type == cert.IAK || r.Type == cert.IDevID {
		return "serialNumber=" + string(id)
	}
	return "CN=" + string(id)
}

// certificate returns the certificate that r describes, with the defaults of the
// options file; options are its words.
func (r *Request) certificate(options []string) (*certRequest, error) {
	args := append([]string{"--subject", r.subject()}, options...)
	c, err := parseCertRequest(append(args, r.Args...))
	if err != nil {
		return nil, err
	}
	c.Days = cert.Forever
	if r.Type != cert.EK { // Compat: C-273: --type in the options file counts for an EK
		c.Type = r.Type
	}
	c.TPM2, c.Header = c.TPM2 || r.TPM2, c.Header || !r.TPM2
	if r.TPM2 && r.TPMSerial != "" {
		c.TPMSerial = r.TPMSerial
	}
	if r.Type == cert.EK {
		c.Signing, c.Decryption = c.Signing || r.Signing, c.Decryption || r.Decryption
	}
	if r.Args == nil {
		c.TPM = r.Product
		if r.Type == cert.EK {
			c.SetSpec(r.Spec)
		}
		if err := c.SetKey(r.Key); err != nil {
			return nil, err
		}
	}
	return c, c.Check()
}

// Issue returns the certificate that r describes, in the form that the TPM stores,
// with a new serial number. It creates the CA if there is none.
func (c *CA) Issue(ctx context.Context, r Request) ([]byte, error) {
	var failure error
	b, err := c.issue(ctx, func(serial *big.Int, issuer *x509.Certificate, key crypto.Signer) ([]byte, error) {
		crt, err := r.certificate(c.options)
		if err != nil {
			failure = err
			return nil, err
		}
		crt.Serial, crt.NotBefore = serial, c.now()
		b, err := crt.Create(issuer, key)
		failure = err
		return b, err
	})
	if failure != nil {
		return nil, cli.Complain("Could not create %s certificate locally\n%v", r.Label(), failure)
	}
	return b, err
}

// Open returns the CA of a configuration file and an options file. "" stands for the
// file of the user or of the system.
func Open(config, options string, log Log) (*CA, error) {
	if options == "" {
		options = cli.FindConfig(optionsName)
	}
	text, err := cli.ReadConfig(options)
	if err != nil {
		return nil, cli.Complain("Need read rights on options file %s for user %s.%s", options, cli.UserName(), cli.OwnFiles())
	}
	cfg, err := LoadConfig(config)
	if err != nil {
		return nil, err
	}
	c := New(cfg, log)
	c.options = words(string(text))
	return c, nil
}

// InToken reports whether the signing key is in a token or a TPM. Such a CA may need
// environment variables for a PKCS #11 module.
func (c *CA) InToken() bool { return c.cfg.InToken() }

// words splits the text of an options file at blanks and ends of lines.
//
// Compat: C-274: quotes and "#" have no meaning.
func words(text string) (all []string) {
	for line := range strings.Lines(text) {
		for word := range strings.SplitSeq(line, " ") {
			if word = strings.TrimRight(word, " \t\r\n\v\f"); word != "" {
				all = append(all, word)
			}
		}
	}
	return all
}
