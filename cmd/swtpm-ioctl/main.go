// Swtpm-ioctl talks to the control channel of an emulator, this one or swtpm:
// it powers the TPM on and off, saves and loads its state and so on. It takes
// the command line of swtpm_ioctl, prints the same words and ends with the same
// exit codes: 0, or 1 for everything that went wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/program"
	"golang.org/x/sys/unix"
)

// bufferSizeVar is the environment variable that moves state blobs by read and write, in
// pieces of this many bytes, instead of by ioctl. swtpm_ioctl has it for its tests.
const bufferSizeVar = "SWTPM_IOCTL_BUFFERSIZE"

// invocation is one run of swtpm-ioctl with its standard streams.
type invocation struct {
	name   string // argv[0], for the messages of the option parser
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

func main() { program.Main("swtpm_ioctl", run) }

// run runs the program and ends early if ctx does: reading stdin or waiting for
// a reply would not notice.
func run(ctx context.Context, args []string) error {
	p := &invocation{os.Args[0], os.Stdin, program.PrintableWriter(os.Stdout), program.PrintableWriter(os.Stderr)}
	err := program.AwaitError(ctx, func() error { return p.run(ctx, args) })
	if err == program.ErrInterrupted {
		return &program.ExitError{Code: 1, Err: err}
	}
	return err
}

// run does what args ask for. An error has been told on stderr.
func (p *invocation) run(ctx context.Context, args []string) error {
	err := p.perform(ctx, args)
	if err == nil {
		return nil
	}
	if s := err.Error(); s != "" {
		fmt.Fprintln(p.stderr, program.Printable(s))
	}
	return &program.ExitError{Code: 1, Err: err, Silent: true}
}

// perform is run without the error's message.
func (p *invocation) perform(ctx context.Context, args []string) error {
	o, err := p.parse(args)
	if err != nil {
		return err
	}
	switch {
	case o.help:
		_, err := fmt.Fprint(p.stdout, versionLine, usageHead, cli.Usage(o.table()))
		return err
	case o.version:
		_, err := fmt.Fprint(p.stdout, versionLine)
		return err
	case o.shell != "":
		return cli.PrintCompletion(p.stdout, o.shell, o.table(), "swtpm_ioctl", "swtpm-ioctl")
	}
	t, err := connect(ctx, o)
	if err != nil {
		return err
	}
	defer t.Close()
	return o.command.run(p, t, o)
}

// connect opens the device or socket that o names.
func connect(ctx context.Context, o *options) (*ctrl.Client, error) {
	switch t := o.target; {
	case t.Device != nil:
		return openDevice(*t.Device)
	case t.TCP != nil:
		return connectTCP(ctx, *t.TCP)
	case t.Unix != nil:
		return connectUnix(ctx, *t.Unix)
	case o.operand != "":
		return openDevice(o.operand)
	}
	return nil, cli.Complain("Error: Missing device name.")
}

func openDevice(path string) (*ctrl.Client, error) {
	piece, err := strconv.Atoi(os.Getenv(bufferSizeVar))
	if err != nil || piece < 1 {
		piece = 0
	}
	c, err := ctrl.OpenDevice(path, piece)
	if err != nil {
		return nil, cli.Complain("Unable to open device '%s'.", path)
	}
	return c, nil
}

func connectTCP(ctx context.Context, a cli.Address) (*ctrl.Client, error) {
	c, err := ctrl.Dial(ctx, "tcp", a.String())
	if unknown := cli.ResolveError(a.Host, err); unknown != nil {
		return nil, unknown
	}
	if err != nil {
		return nil, cli.Complain("Could not connect to host '%s' on port '%s' using TCP socket: %s", a.Host, a.Port, cli.Strerror(err))
	}
	return c, nil
}

func connectUnix(ctx context.Context, path string) (*ctrl.Client, error) {
	if len(path) > ctrl.MaxPath {
		return nil, cli.Complain("Socket path is too long. %q has %d bytes, the limit is %d.", path, len(path), ctrl.MaxPath)
	}
	c, err := ctrl.Dial(ctx, "unix", path)
	if errors.Is(err, unix.EAGAIN) {
		return nil, cli.Complain("Could not connect using UnixIO socket.")
	}
	if err != nil {
		return nil, cli.Complain("Connect failed: %s", cli.Strerror(err))
	}
	return c, nil
}
