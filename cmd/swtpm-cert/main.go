// Swtpm-cert makes one certificate of a TPM: of its endorsement key, its
// platform, its attestation key or its device identity. It takes the command line
// of swtpm_cert, prints the same words and ends with the same exit codes: 0, or 1
// for everything that went wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/swtpm-go/swtpm/internal/ca/cmdcert"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/printable"
)

func main() { daemon.Main("swtpm_cert", run) }

// run runs the program and ends early if ctx does: a password that is not written
// or a token that does not answer would not notice.
func run(ctx context.Context, args []string) error {
	p := &cmdcert.Program{Name: os.Args[0], Stdout: printable.Writer(os.Stdout), Stderr: printable.Writer(os.Stderr), Now: time.Now, Env: os.LookupEnv}
	done := make(chan error, 1)
	go func() { done <- p.Run(args) }()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		fmt.Fprintln(os.Stderr, printable.Text(err.Error()))
		return &daemon.ExitError{Code: 1, Err: err, Silent: true}
	case <-ctx.Done():
		return &daemon.ExitError{Code: 1, Err: errors.New("interrupted")}
	}
}
