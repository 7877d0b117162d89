package ca

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/swtpm-go/swtpm/internal/ca/signer"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/program"
)

// CertProgram is the environment of a run of swtpm_cert, which creates one certificate of
// a TPM. Its options can also be in the options file of a CA (parseCertRequest).
type CertProgram struct {
	Name   string // argv[0], for the messages of the option parser
	Stdout io.Writer
	Stderr io.Writer
	Now    func() time.Time                 // time.Now
	Env    func(name string) (string, bool) // os.LookupEnv
}

// capabilities is the output of --print-capabilities.
const capabilities = `{ "type": "swtpm_cert", "features": [ "cmdarg-signkey-pwd", "cmdarg-tpm-serial-num", ` +
	`"supports-iak-idevid", "cmdarg-public", "cmdarg-keyalgo" ], "version": "` + program.ReferenceVersion + `" }` + "\n"

const versionLine = "TPM certificate tool version " + program.ReferenceVersion + ", Copyright (c) 2026 the swtpm-go authors\n"

const usageHead = `
Usage: swtpm_cert [options]

Create one certificate of a TPM. Only the public part of its key is needed.

The following options are supported:
`

const usageTail = `
The following environment variable is used:

SWTPM_PKCS11_PIN      : the PIN of the token that a pkcs11: URI names

A password <pwd> may be given as:
- <password>
- pass:<password>
- fd:<file descriptor>
- file:<filename>
- env:<environment variable>
`

// Run runs the program; args are its arguments without its name. The returned error is the
// message for the user, which is the same as in swtpm_cert where that has one. Run prints warnings
// to Stderr, and after a wrong option the usage to Stdout. The exit code of every error is 1.
func (p *CertProgram) Run(args []string) error {
	o := newOptions()
	defer o.clear()
	table := o.table(p.Env)
	_, err := cli.Getopt{OneDash: true, Wrong: func(err error) error { return misuse{err} }}.Parse(table, args)
	switch {
	case errors.As(err, new(misuse)):
		fmt.Fprint(p.Stdout, versionLine, usageHead, cli.Usage(table), usageTail)
		return fmt.Errorf("%s: %w", p.Name, err)
	case err != nil:
		return err
	}
	text := ""
	switch {
	case o.help:
		text = versionLine + usageHead + cli.Usage(table) + usageTail
	case o.version:
		text = versionLine
	case o.capabilities:
		text = capabilities
	case o.shell != "":
		return cli.PrintCompletion(p.Stdout, o.shell, table, "swtpm_cert", "swtpm-cert")
	default:
		return p.make(o)
	}
	_, err = io.WriteString(p.Stdout, text)
	return err
}

// misuse is an error of the option parser.
type misuse struct{ error }

// make creates the certificate and writes it.
func (p *CertProgram) make(o *options) error {
	if err := o.check(); err != nil {
		return err
	}
	der, err := p.issue(o)
	if err != nil {
		return err
	}
	return p.write(o, der)
}

// issue returns the certificate in DER.
func (p *CertProgram) issue(o *options) ([]byte, error) {
	var err error
	if o.Key, err = o.key.read(); err != nil {
		return nil, err
	}
	ca, err := signer.Certificate(o.issuerCert)
	if err != nil {
		return nil, cli.Complain("Could not read issuer certificate from %s. %s", o.issuerCert, reason(err))
	}
	pin, _ := p.Env("SWTPM_PKCS11_PIN")
	tcti, _ := p.Env("TPM2TOOLS_TCTI")
	key, err := signer.Open(signer.Source{
		Key: o.signKey, Password: o.password, ParentPassword: o.parentPassword, PIN: pin, TCTI: tcti,
		Warn: func(s string) { fmt.Fprintln(p.Stderr, s) },
	})
	if err != nil {
		return nil, cli.Complain("Could not read %s signing key from %s. %s", signer.Kind(o.signKey), signer.WithoutPIN(o.signKey), reason(err))
	}
	defer key.Close()
	o.NotBefore = p.Now()
	return o.sign(ca, key)
}
