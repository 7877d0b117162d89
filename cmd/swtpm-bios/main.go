// Swtpm-bios sends a TPM the first commands that a firmware would send, over the
// data channel of an emulator, this one or swtpm, or to a device. It takes the
// command line of swtpm_bios, prints the same words and ends with the same exit
// codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The exit codes.
const (
	exitUsage     = 1
	exitTPMError  = 128 // a command was refused
	exitReset     = 129 // with -ea: the TPM must be reset and the program run again
	exitTransport = 255
)

// errReset ends the sequence for a TPM that was deactivated.
var errReset = errors.New("TPM requires a reset")

// invocation is one run of swtpm-bios with its standard streams.
type invocation struct {
	name           string // argv[0], for the messages of the option parser
	env            func(string) (string, bool)
	stdout, stderr io.Writer
}

func main() { program.Main("swtpm_bios", run) }

// run runs the program and ends early if ctx does: waiting for a response would
// not notice.
func run(ctx context.Context, args []string) error {
	p := &invocation{os.Args[0], os.LookupEnv, program.PrintableWriter(os.Stdout), program.PrintableWriter(os.Stderr)}
	err := program.AwaitError(ctx, func() error { return p.run(ctx, args) })
	if err == program.ErrInterrupted {
		return &program.ExitError{Code: exitTransport, Err: err}
	}
	return err
}

// run does what args ask for. An error has been told.
func (p *invocation) run(ctx context.Context, args []string) error {
	o, err := parse(args, p.env)
	if wrong, ok := errors.AsType[misuse](err); ok {
		fmt.Fprintln(p.stderr, program.Printable(fmt.Sprintf("%s: %v", p.name, wrong)))
		p.usage()
		return exit(exitUsage)
	}
	if err != nil {
		fmt.Fprintln(p.stderr, program.Printable(err.Error()))
		return exit(exitUsage)
	}
	switch {
	case o.help:
		return p.usage()
	case o.version:
		_, err := fmt.Fprint(p.stdout, versionLine)
		return err
	case o.shell != "":
		if err := cli.PrintCompletion(p.stdout, o.shell, o.table(), "swtpm_bios", "swtpm-bios"); err != nil {
			fmt.Fprintln(p.stderr, program.Printable(err.Error()))
			return exit(exitUsage)
		}
		return nil
	}
	return p.send(ctx, o)
}

// send sends the sequence that o asks for. A command that the TPM refuses does
// not end it, a response that does not come does.
func (p *invocation) send(ctx context.Context, o *options) error {
	// Compat: the errors of a TPM 2.0 go to stdout.
	complaints := p.stderr
	if o.tpm2 {
		complaints = p.stdout
	}
	refused := false
	for _, s := range o.sequence() {
		rsp, err := s.do(ctx, o.target)
		r, isResult := errors.AsType[tpm.Result](err)
		switch {
		case isResult:
			fmt.Fprintf(complaints, "%s returned error code 0x%08x\n", s.name, uint32(r))
			refused = true
			continue
		case err == nil && s.look != nil:
			err = s.look(rsp)
		}
		switch {
		case err == errReset:
			fmt.Fprintln(p.stdout, err)
			return exit(exitReset)
		case ctx.Err() != nil:
			return exit(exitTransport) // the caller tells why
		case err != nil:
			fmt.Fprintln(p.stderr, program.Printable(err.Error()))
			return exit(exitTransport)
		}
	}
	if refused {
		return exit(exitTPMError)
	}
	return nil
}

// do sends the step's command, if it has one. An error of the TPM is a
// tpm.Result.
func (s step) do(ctx context.Context, t cli.Target) ([]byte, error) {
	if s.cmd == nil {
		return nil, nil
	}
	rsp, err := exchange(ctx, t, s.cmd, s.patience)
	if err != nil {
		return nil, err
	}
	h, _ := tpm.ParseHeader(rsp)
	return rsp, tpm.Result(h.Code).Err()
}

func (p *invocation) usage() error {
	_, err := fmt.Fprint(p.stdout, versionLine, usageHead, cli.Usage(new(options).table()))
	return err
}

// exit returns the error for an exit code whose reason has been told.
func exit(code int) error { return &program.ExitError{Code: code, Silent: true} }
