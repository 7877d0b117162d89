package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// revocation has the options for revoked certificates.
type revocation struct {
	certs []string // --revoke: serial numbers, or files with certificates
	list  string   // --crl: the file for the revocation list; "" for none
	days  int      // --crl-days
}

// defaultListDays is how long a revocation list is valid without --crl-days.
const defaultListDays = 30

func (r *revocation) table() []cli.Option {
	return []cli.Option{
		{Name: "revoke", Arg: "<cert>", Set: noOption("revoke", func(arg, _ string) error { r.certs = append(r.certs, arg); return nil }),
			Help: "revoke a certificate: its serial number, or a file with\nit; may be repeated"},
		{Name: "crl", Arg: "<file>", Set: noOption("crl", text(&r.list)), Help: "write the certificate revocation list to this file, as\nPEM if its name ends in .pem, else as DER"},
		{Name: "crl-days", Arg: "<days>", Set: r.setDays, Help: "days that the list is valid; default is 30"},
	}
}

// noOption returns set for the option name with an argument that is not an option itself: getopt_long
// would take the next option as a forgotten argument.
func noOption(name string, set func(arg, file string) error) func(arg, file string) error {
	return func(arg, file string) error {
		if strings.HasPrefix(arg, "--") {
			return fmt.Errorf("option '--%s' requires an argument, but %q is an option; for a file of that name, write ./%[2]s", name, arg)
		}
		return set(arg, file)
	}
}

// setDays sets the argument of --crl-days.
func (r *revocation) setDays(arg, _ string) error {
	const most = 36500
	n, err := strconv.Atoi(arg)
	if err != nil || n < 1 || n > most {
		return fmt.Errorf("option '--crl-days': %q is not a number from 1 to %d", arg, most)
	}
	r.days = n
	return nil
}

func (r *revocation) wanted() bool { return len(r.certs) > 0 || r.list != "" }

// revoke revokes certificates and writes the list, as far as requested.
func (o *options) revoke(ctx context.Context, log ca.Log) error {
	if o.kind != "" || o.key != "" {
		return errors.New("--revoke and --crl issue no certificate; leave out --type and --ek")
	}
	cfg, err := ca.LoadConfig(o.conf)
	if err != nil {
		return err
	}
	authority := ca.New(cfg, log)
	for _, name := range o.revocation.certs {
		serial, err := authority.IssuedSerial(name)
		if err != nil {
			return fmt.Errorf("--revoke: %w", err)
		}
		at, err := authority.Revoke(ctx, serial)
		if err != nil {
			return fmt.Errorf("revoke the certificate %s: %w", serial, err)
		}
		log.Infof("The certificate with the serial number %s is revoked since %s.", serial, at.Format("2006-01-02 15:04:05 MST"))
	}
	if o.revocation.list == "" {
		return nil
	}
	der, err := authority.RevocationList(ctx, o.revocation.days)
	if err != nil {
		return fmt.Errorf("revocation list: %w", err)
	}
	return o.writeList(der)
}

// writeList writes the list to its file in one step, so that a web server delivers
// either the old or the new one.
func (o *options) writeList(der []byte) error {
	path := o.revocation.list
	if strings.HasSuffix(path, ".pem") {
		der = cert.ListPEM(der)
	}
	dir, err := safefile.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("--crl: %w", err)
	}
	defer dir.Close()
	name := filepath.Base(path)
	temp := fmt.Sprintf(".new.%s.%d.%d", name, os.Getpid(), writes.Add(1))
	if err := dir.Write(name, temp, der, 0o644, true); err != nil {
		return fmt.Errorf("--crl: %w", err)
	}
	return nil
}
