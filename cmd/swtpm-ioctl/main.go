// Swtpm-ioctl sends requests to the control channel of an emulator, this one or swtpm: it
// powers the TPM on and off, saves and loads its state and so on. It has the command line,
// the messages and the exit codes of swtpm_ioctl: 0, or 1 for every error.
package main

import (
	"context"
	"errors"
	"os"
	"strconv"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/program"
	"golang.org/x/sys/unix"
)

// bufferSizeVar is the environment variable with a number of bytes. If it is set, state blobs are
// transferred with read and write, in pieces of that size, instead of with ioctl.
//
// Compat: C-261: swtpm_ioctl has it for its tests.
const bufferSizeVar = "SWTPM_IOCTL_BUFFERSIZE"

var tool = cli.Tool{
	Name:    "swtpm_ioctl",
	Version: "TPM emulator control tool version " + program.Version + ", Copyright (c) 2026 the swtpm-go authors\n",
	Head: `
Usage: swtpm_ioctl command <device path>

The following commands are supported:
`,
	Interrupted: 1,
}

func main() { tool.Main(run) }

// run executes the command line args. It prints its error.
func run(ctx context.Context, s *cli.Streams, args []string) error {
	if err := execute(ctx, s, args); err != nil {
		return s.Fail(1, err)
	}
	return nil
}

// execute does the same as run, but does not print its error.
func execute(ctx context.Context, s *cli.Streams, args []string) error {
	o, err := parse(s, args)
	if err != nil {
		return err
	}
	if o.Requested() {
		return o.Print(s.Out, tool, o.table())
	}
	c, err := connect(ctx, o)
	if err != nil {
		return err
	}
	defer c.Close()
	return o.command.run(s, c, o)
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
	if err := cli.CheckPath(path); err != nil {
		return nil, err
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
