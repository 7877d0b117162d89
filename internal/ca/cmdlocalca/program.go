// Package cmdlocalca is swtpm_localca without its process: a command line that has
// a local CA make one certificate of a TPM. swtpm-localca is this and a main
// function; swtpm-setup may call it in place of the program.
package cmdlocalca

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/ca/cmdcert"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/keyvalue"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// optionsName is the name of the options file where package conf looks for it.
const optionsName = "swtpm-localca.options"

const usageHead = `Usage: swtpm_localca [options]

Has a local CA, which is made at first, certify a key of a TPM.

The following options are supported:

`

const usageTail = `
The following environment variable is looked at:

SWTPM_ROOTCA_PASSWORD : the password of the root CA's key, when the CA is made
`

// Program is what a run uses of its surroundings.
type Program struct {
	Name   string // argv[0], for the messages of the option parser
	Stdout io.Writer
	Stderr io.Writer
}

// Run does what args, the arguments without the program's name, ask for. What
// went wrong has been told, in the log file if there is one; every error means
// exit code 1.
func (p *Program) Run(ctx context.Context, args []string) error {
	o := &options{dir: ".", revocation: revocation{days: defaultListDays}}
	table := o.table()
	if _, err := cli.ParseLong(table, args); err != nil {
		fmt.Fprintln(p.Stderr, program.Printable(fmt.Sprintf("%s: %v", p.Name, err)))
		fmt.Fprint(p.Stdout, usageHead, cli.Usage(table), usageTail)
		return err
	}
	switch {
	case o.help:
		_, err := fmt.Fprint(p.Stdout, usageHead, cli.Usage(table), usageTail)
		return err
	case o.shell != "":
		return cli.PrintCompletion(p.Stdout, o.shell, table, "swtpm_localca", "swtpm-localca")
	}
	log, err := p.openLog(o.log)
	if err != nil {
		fmt.Fprintln(p.Stderr, program.Printable(err.Error()))
		return err
	}
	defer log.close()
	do := o.run
	if o.revocation.wanted() {
		do = o.revoke
	}
	if err := do(ctx, log); err != nil {
		log.Errorf("%v", err)
		return err
	}
	if o.revocation.wanted() {
		return nil
	}
	log.Infof("Successfully created %s certificate locally.", o.label())
	return nil
}

// Certificate returns the certificate that args ask for instead of writing it to a
// file; --dir and --logfile do not matter. Messages go to log, but for the error
// that is returned.
//
// A CA whose key is in a token is not for a process that has other things to do:
// its module wants variables of the environment. ErrToken says so.
func Certificate(ctx context.Context, log ca.Log, args []string) ([]byte, error) {
	o := &options{}
	if _, err := cli.ParseLong(o.table(), args); err != nil {
		return nil, err
	}
	cfg, opts, err := o.files()
	switch {
	case err != nil:
		return nil, err
	case cfg.InToken():
		return nil, ErrToken
	}
	return o.issue(ctx, log, cfg, opts)
}

// ErrToken says that the signing key of a CA is in a token.
var ErrToken = errors.New("the key of the CA is in a token")

// run makes the certificate and writes it.
func (o *options) run(ctx context.Context, log ca.Log) error {
	cfg, opts, err := o.files()
	if err != nil {
		return err
	}
	b, err := o.issue(ctx, log, cfg, opts)
	if err != nil {
		return err
	}
	if err := o.write(b); err != nil {
		return cli.Complain("Could not create %s certificate locally\n%v", o.label(), err)
	}
	return nil
}

// files reads the configuration file and the words of the options file.
func (o *options) files() (cfg *ca.Config, opts []string, err error) {
	path := o.opts
	if path == "" {
		path = keyvalue.Find(optionsName)
	}
	text, err := keyvalue.Read(path)
	if err != nil {
		return nil, nil, cli.Complain("Need read rights on options file %s for user %s.%s", path, keyvalue.UserName(), keyvalue.OwnFiles())
	}
	cfg, err = o.config()
	return cfg, words(string(text)), err
}

// config reads the configuration file.
func (o *options) config() (*ca.Config, error) {
	path := o.conf
	if path == "" {
		path = keyvalue.Find(ca.ConfigName)
	}
	return ca.LoadConfig(path)
}

// issue has the CA make the certificate.
func (o *options) issue(ctx context.Context, log ca.Log, cfg *ca.Config, opts []string) ([]byte, error) {
	if _, err := cert.ParseType(o.kind); err != nil || o.key == "" {
		if err == nil {
			err = errors.New("no key: want --ek or --key")
		}
		return nil, cli.Complain("Could not create %s certificate locally\n%v", o.label(), err)
	}
	var failure error // in building the certificate
	b, err := ca.New(cfg, log).Issue(ctx, func(serial *big.Int, issuer *x509.Certificate, key crypto.Signer) ([]byte, error) {
		var b []byte
		b, failure = cmdcert.Certificate(o.certArgs(opts, serial.String()), issuer, key, time.Now())
		return b, failure
	})
	if failure != nil {
		return nil, cli.Complain("Could not create %s certificate locally\n%v", o.label(), failure)
	}
	return b, err
}

// writes counts the files that this process has written, for temporary names.
var writes atomic.Uint64

// write writes the certificate to its file.
func (o *options) write(b []byte) error {
	name := o.kind + ".cert"
	dir, err := safefile.Open(o.dir)
	if err == nil {
		defer dir.Close()
		temp := fmt.Sprintf(".new.%s.%d.%d", name, os.Getpid(), writes.Add(1))
		err = dir.Write(name, temp, b, 0o600, false)
	}
	if err != nil {
		return cli.Complain("Could not open %s for writing the certificate: %s", filepath.Join(o.dir, name), cli.Strerror(err))
	}
	return nil
}
