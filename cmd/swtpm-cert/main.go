// Swtpm-cert creates one certificate of a TPM: of its endorsement key, its platform, its
// attestation key or its device identity. It has the command line, messages and exit
// codes of swtpm_cert: 0, or 1 for every error.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/swtpm-go/swtpm/internal/ca"
	"github.com/swtpm-go/swtpm/internal/program"
)

func main() { program.Main("swtpm_cert", run) }

// run runs the program, and returns early if ctx ends: the program may wait for a password or
// for a token that does not answer.
func run(ctx context.Context, args []string) error {
	p := &ca.CertProgram{Name: os.Args[0], Stdout: program.PrintableWriter(os.Stdout), Stderr: program.PrintableWriter(os.Stderr), Now: time.Now, Env: os.LookupEnv}
	err := program.AwaitError(ctx, func() error { return p.Run(args) })
	if err == program.ErrInterrupted {
		return &program.ExitError{Code: 1, Err: err}
	}
	if err == nil {
		return nil
	}
	fmt.Fprintln(os.Stderr, program.Printable(err.Error()))
	return &program.ExitError{Code: 1, Err: err, Silent: true}
}
