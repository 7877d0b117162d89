// Swtpm-bios sends the first commands of a firmware to a TPM: over the data channel of an
// emulator, this one or swtpm, or to a device. It has the command line, the messages and the exit
// codes of swtpm_bios.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The exit codes.
const (
	exitUsage     = 1
	exitTPMError  = 128 // the TPM has rejected a command
	exitReset     = 129 // with -ea: the TPM must be reset and the program run again
	exitTransport = 255
)

// errReset ends the sequence for a TPM that was deactivated.
var errReset = errors.New("TPM requires a reset")

var tool = cli.Tool{
	Name:    "swtpm_bios",
	Version: "TPM emulator BIOS emulator version " + program.Version + ", Copyright (c) 2026 the swtpm-go authors\n",
	Head: `
swtpm_bios [options]

Sends a TPM the first commands of a firmware: TPM_Startup (unless -n), then
(unless -o) commands that set physical presence and enable and activate the TPM,
and finally (with -u) commands that give up physical presence.

The following options are supported:
`,
	Interrupted: exitTransport,
}

func main() { tool.Main(run) }

// run executes the command line args. It prints its error.
func run(ctx context.Context, s *cli.Streams, args []string) error {
	return execute(ctx, s, args, os.LookupEnv)
}

// execute does the same as run, and looks up environment variables with env.
func execute(ctx context.Context, s *cli.Streams, args []string, env func(string) (string, bool)) error {
	o, err := parse(args, env)
	if wrong, ok := errors.AsType[misuse](err); ok {
		s.Misuse(wrong)
		_ = tool.Usage(s.Out, new(options).table())
		return exit(exitUsage)
	}
	if err != nil {
		return s.Fail(exitUsage, err)
	}
	if !o.Requested() {
		return o.send(ctx, s)
	}
	if err := o.Print(s.Out, tool, o.table()); err != nil {
		return s.Fail(exitUsage, err)
	}
	return nil
}

// send sends the commands of the sequence. It continues after a command that the TPM rejects, and
// ends if a response is missing.
//
// Compat: C-254: the errors of a TPM 2.0 are printed on stdout.
func (o *options) send(ctx context.Context, s *cli.Streams) error {
	complaints := s.Err
	if o.tpm2 {
		complaints = s.Out
	}
	refused := false
	for _, step := range o.sequence() {
		rsp, err := step.do(ctx, o.target)
		r, isResult := errors.AsType[tpm.Result](err)
		switch {
		case isResult:
			fmt.Fprintf(complaints, "%s returned error code 0x%08x\n", step.name, uint32(r))
			refused = true
			continue
		case err == nil && step.check != nil:
			err = step.check(rsp)
		}
		switch {
		case err == errReset:
			fmt.Fprintln(s.Out, err)
			return exit(exitReset)
		case ctx.Err() != nil:
			return exit(exitTransport) // the caller reports the signal
		case err != nil:
			return s.Fail(exitTransport, err)
		}
	}
	if refused {
		return exit(exitTPMError)
	}
	return nil
}

// do sends the command of the step, if it has one. An error of the TPM is a tpm.Result.
func (s step) do(ctx context.Context, t cli.Target) ([]byte, error) {
	if s.cmd == nil {
		return nil, nil
	}
	rsp, err := exchange(ctx, t, s.cmd, s.timeout)
	if err != nil {
		return nil, err
	}
	h, _ := tpm.ParseHeader(rsp)
	return rsp, tpm.Result(h.Code).Err()
}

// exit returns the error for an exit code whose reason was printed.
func exit(code int) error { return &program.ExitError{Code: code, Silent: true} }
