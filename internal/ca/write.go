package ca

import (
	"errors"
	"os"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// write writes the certificate to its file.
//
// Compat: C-270: without --out-cert swtpm_cert writes PEM to stdout, without a header, and does
// not write DER.
func (p *CertProgram) write(o *options, der []byte) error {
	switch {
	case o.out == "" && o.PEM:
		if _, err := p.Stdout.Write(cert.PEM(der)); err != nil {
			return cli.Complain("Could not write certificate to stdout: %s", cli.Strerror(err))
		}
		return nil
	case o.out == "":
		return nil
	}
	b, err := o.encode(der)
	if err != nil {
		return err
	}
	f, err := safefile.OpenOutput(o.out, os.O_TRUNC, 0o600)
	if err != nil {
		return cli.Complain("Could not open %s for writing the certificate: %s", o.out, cli.Strerror(err))
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return cli.Complain("Could not write certificate into file %s: %s", o.out, cli.Strerror(err))
	}
	return nil
}

// reason returns err as a sentence.
func reason(err error) string {
	s := strings.ReplaceAll(cli.Strerror(err), "\n", "; ")
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
