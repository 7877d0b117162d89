// Swtpm-localca issues a certificate for a key of a TPM with a local CA. It has the
// command line, configuration files, messages and exit codes of swtpm_localca: 0, or 1
// for every error.
package main

import (
	"context"
	"os"

	"github.com/swtpm-go/swtpm/internal/program"
)

func main() { program.Main("swtpm_localca", run) }

// run runs the program. If ctx ends, it returns without waiting for the program, which may wait
// for a token that does not answer.
func run(ctx context.Context, args []string) error {
	p := &localCA{Name: os.Args[0], Stdout: program.PrintableWriter(os.Stdout), Stderr: program.PrintableWriter(os.Stderr)}
	err := program.AwaitError(ctx, func() error { return p.Run(ctx, args) })
	if err == program.ErrInterrupted {
		return &program.ExitError{Code: 1, Err: err}
	}
	if err == nil {
		return nil
	}
	return &program.ExitError{Code: 1, Err: err, Silent: true}
}
