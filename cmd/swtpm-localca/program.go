package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/ca/cert"
	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

const usageHead = `Usage: swtpm_localca [options]

Issue a certificate for a key of a TPM with a local CA, which is created first if
there is none.

The following options are supported:

`

const usageTail = `
The following environment variable is used:

SWTPM_ROOTCA_PASSWORD : the password of the root CA's key when the CA is created
`

// localCA is the environment of a run.
type localCA struct {
	Name   string // argv[0], for the messages of the option parser
	Stdout io.Writer
	Stderr io.Writer
}

// Run runs the program; args are its arguments without its name. It has already
// reported the error that it returns, in the log file if there is one. Every error
// means exit code 1.
func (p *localCA) Run(ctx context.Context, args []string) error {
	o := &options{dir: ".", revocation: revocation{days: defaultListDays}}
	table := o.table()
	operands, err := cli.Getopt{}.Parse(table, args)
	if err == nil && len(operands) > 0 && o.revocation.wanted() {
		err = fmt.Errorf("unexpected argument %q", operands[0])
	}
	if err != nil {
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

// run issues the certificate and writes it.
func (o *options) run(ctx context.Context, log ca.Log) error {
	authority, err := ca.Open(o.conf, o.opts, log)
	if err != nil {
		return err
	}
	typ, err := cert.ParseType(o.kind)
	if err == nil && o.key == "" {
		err = errors.New("missing key: use --ek or --key")
	}
	if err != nil {
		return cli.Complain("Could not create %s certificate locally\n%v", o.label(), err)
	}
	b, err := authority.Issue(ctx, o.request(typ))
	if err != nil {
		return err
	}
	if err := o.write(b); err != nil {
		return cli.Complain("Could not create %s certificate locally\n%v", o.label(), err)
	}
	return nil
}

// writes counts the files that this process has written, for unique temporary names.
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
