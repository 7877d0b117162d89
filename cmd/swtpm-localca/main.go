// Swtpm-localca has a local CA certify a key of a TPM. It takes the command line
// and the configuration files of swtpm_localca, prints the same words and ends
// with the same exit codes: 0, or 1 for everything that went wrong.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/swtpm-go/swtpm/internal/ca/cmdlocalca"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/printable"
)

func main() { daemon.Main("swtpm_localca", run) }

// run runs the program and ends early if ctx does: a token that does not answer
// would not notice.
func run(ctx context.Context, args []string) error {
	p := &cmdlocalca.Program{Name: os.Args[0], Stdout: printable.Writer(os.Stdout), Stderr: printable.Writer(os.Stderr)}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, args) }()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		return &daemon.ExitError{Code: 1, Err: err, Silent: true}
	case <-ctx.Done():
		return &daemon.ExitError{Code: 1, Err: errors.New("interrupted")}
	}
}
