package certtool

import (
	"errors"
	"os"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/tool"
	"golang.org/x/sys/unix"
)

// write puts the certificate der where o wants it, in the form that o wants.
//
// Compat: without --out-cert swtpm_cert writes PEM to stdout, without a header,
// and DER nowhere. In a file --pem may go with --add-header.
func (p *Program) write(o *options, der []byte) error {
	b := der
	if o.pem {
		b = cert.PEM(der)
	}
	if o.out == "" && o.pem {
		if _, err := p.Stdout.Write(b); err != nil {
			return tool.Complain("Could not write certificate to stdout: %s", tool.Strerror(err))
		}
	}
	if o.out == "" {
		return nil
	}
	if o.header {
		var err error
		if b, err = cert.AddHeader(b); err != nil {
			return tool.Complain("Could not write certificate header. %s", reason(err))
		}
	}
	f, err := os.OpenFile(o.out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return tool.Complain("Could not open %s for writing the certificate: %s", o.out, tool.Strerror(err))
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return tool.Complain("Could not write certificate into file %s: %s", o.out, tool.Strerror(err))
	}
	return nil
}

// reason returns err as a sentence that follows one.
func reason(err error) string {
	s := strings.ReplaceAll(tool.Strerror(err), "\n", "; ")
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
