package ca

import (
	"math/big"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
)

// options is a parsed command line.
type options struct {
	certRequest

	signKey        string
	password       []byte // password of signKey; nil for none
	parentPassword []byte // password of the parent key in a TPM; nil for none
	issuerCert     string

	out string // "" for no file; PEM is then written to stdout

	help, version, capabilities bool
	shell                       string // --completion
}

// newOptions returns the defaults.
func newOptions() *options {
	o := &options{}
	o.Serial, o.Days = big.NewInt(1), 365
	o.key.exponent, o.key.curve = 0x10001, defaultCurve
	return o
}

// clear clears the passwords.
func (o *options) clear() {
	clear(o.password)
	clear(o.parentPassword)
}

// table returns all options in the order of the usage. Parsing them fills o. env looks up
// environment variables, like os.LookupEnv.
func (o *options) table(env func(string) (string, bool)) []cli.Option {
	r := &o.certRequest
	all := o.key.table()
	all = append(all, []cli.Option{
		{Name: "signkey", Arg: "<file>", Set: text(&o.signKey),
			Help: "private key of the CA: a PEM file, a pkcs11: or a\ntpm2: URI"},
		{Name: "signkey-password", Arg: "<password>", Set: literal(&o.password), Help: "password of the CA's key"},
		{Name: "signkey-pwd", Arg: "<pwd>", Set: password(&o.password, env), Help: "the same, in one of the formats below"},
		{Name: "parentkey-password", Arg: "<p>", Set: literal(&o.parentPassword),
			Help: "password of the parent of the CA's key in a TPM 2.0"},
		{Name: "parentkey-pwd", Arg: "<pwd>", Set: password(&o.parentPassword, env), Help: "the same, in one of the formats below"},
		{Name: "issuercert", Arg: "<file>", Set: text(&o.issuerCert), Help: "PEM file with the CA's certificate"},
		{Name: "out-cert", Arg: "<file>", Set: text(&o.out), Help: "file for the certificate"},
		{Name: "serial", Arg: "<number>", Set: serial(&r.Serial), Help: "serial number of the certificate; default is 1"},
		{Name: "days", Arg: "<number>", Set: days(&r.Days), Help: "validity of the certificate in days, -1 for no end;\ndefault is 365"},
		{Name: "pem", Set: flag(&r.PEM), Help: "write PEM; default is DER"},
		{Name: "type", Arg: "<type>", Words: cert.TypeNames(), Set: certType(&r.Type), Help: "ek, platform, iak or idevid; default is ek"},
	}...)
	all = append(all, attributes("tpm", "TPM", &r.TPM)...)
	all = append(all, attributes("platform", "platform", &r.Platform)...)
	return append(all, []cli.Option{
		{Name: "tpm-spec-family", Arg: "<family>", Set: text(&r.Spec.Family), Help: "family of the TPM's specification, a string"},
		{Name: "tpm-spec-level", Arg: "<level>", Set: number("tpm-spec-level", &r.Spec.Level, &r.level), Help: "level of that specification, a number"},
		{Name: "tpm-spec-revision", Arg: "<rev>", Set: number("tpm-spec-revision", &r.Spec.Revision, &r.revision), Help: "revision of that specification, a number"},
		{Name: "tpm-serial-num", Arg: "<number>", Set: text(&r.TPMSerial), Help: "serial number of the TPM; for iak and idevid"},
		{Name: "subject", Arg: "<subject>", Set: text(&r.Subject), Help: "subject, such as C=US,ST=NY,L=NewYork;\nnot used for a TPM 1.2"},
		{Name: "add-header", Set: flag(&r.Header), Help: "write the header for the NVRAM of a TPM 1.2 before the\ncertificate"},
		{Name: "tpm2", Set: flag(&r.TPM2), Help: "create a certificate of a TPM 2.0"},
		{Name: "allow-signing", Set: flag(&r.Signing), Help: "the EK may sign; requires --tpm2"},
		{Name: "decryption", Set: flag(&r.Decryption), Help: "an EK that signs also decrypts; requires --tpm2"},
		{Name: "non-critical-san", Set: flag(&r.NonCriticalSAN), Help: "mark the subject alternative name as non-critical, for\nverifiers that reject a critical one; not used without a\nsubject"},
		{Name: "ocsp-url", Arg: "<url>", Set: location("ocsp-url", &r.Locations.OCSP), Help: "URL of an OCSP responder; may be repeated"},
		{Name: "ca-issuers-url", Arg: "<url>", Set: location("ca-issuers-url", &r.Locations.CAIssuers), Help: "URL of the issuer's certificate, in DER; may be\nrepeated"},
		{Name: "crl-url", Arg: "<url>", Set: location("crl-url", &r.Locations.CRL), Help: "URL of the issuer's certificate revocation list, in\nDER; may be repeated"},
		{Name: "print-capabilities", Set: last(&o.capabilities), Help: "print capabilities and exit"},
		cli.CompletionOption(&o.shell),
		{Name: "version", Set: last(&o.version), Help: "display version and exit"},
		{Name: "help", Set: last(&o.help), Help: "display this help screen and exit"},
	}...)
}

// attributes returns the three options that fill a. Their names begin with prefix.
func attributes(prefix, product string, a *cert.Attributes) []cli.Option {
	return []cli.Option{
		{Name: prefix + "-manufacturer", Arg: "<name>", Set: text(&a.Manufacturer), Help: "name of the " + product + "'s manufacturer"},
		{Name: prefix + "-model", Arg: "<model>", Set: text(&a.Model), Help: "model of the " + product},
		{Name: prefix + "-version", Arg: "<version>", Set: text(&a.Version), Help: "version of the " + product},
	}
}

// check returns an error if an option is missing.
//
// Compat: C-268: the order of the messages equals swtpm_cert.
func (o *options) check() error {
	if err := o.key.check(); err != nil {
		return err
	}
	switch {
	case o.issuerCert == "":
		return cli.Complain("The issuer certificate name is required.")
	case o.signKey == "":
		return cli.Complain("Missing signature key.")
	}
	return o.checkFields()
}
