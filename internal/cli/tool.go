package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/swtpm-go/swtpm/internal/program"
)

// Tool is the frame of a client tool's command line.
type Tool struct {
	Name        string // the name of the reference's program, with underscores
	Version     string // the line that shows the version
	Head        string // of the usage, in front of the options
	Interrupted int    // the exit code after a signal
}

// Streams are the standard streams of a run, and the name of the program for messages about
// its options.
type Streams struct {
	Name     string
	In       io.Reader
	Out, Err io.Writer
}

// Main is the main function of the tool. A signal ends the program.
func (t Tool) Main(run func(ctx context.Context, s *Streams, args []string) error) {
	program.Main(t.Name, func(ctx context.Context, args []string) error { return t.Run(ctx, args, run) })
}

// Run calls run with the streams of the process. It returns when the context ends, because
// run may be reading from a stream or waiting for a reply.
func (t Tool) Run(ctx context.Context, args []string, run func(ctx context.Context, s *Streams, args []string) error) error {
	s := &Streams{os.Args[0], os.Stdin, program.PrintableWriter(os.Stdout), program.PrintableWriter(os.Stderr)}
	err := program.AwaitError(ctx, func() error { return run(ctx, s, args) })
	if err == program.ErrInterrupted {
		return &program.ExitError{Code: t.Interrupted, Err: err}
	}
	return err
}

// Fail prints err, unless its text is empty, and returns the error that ends the program with
// code.
func (s *Streams) Fail(code int, err error) error {
	if text := err.Error(); text != "" {
		fmt.Fprintln(s.Err, program.Printable(text))
	}
	return &program.ExitError{Code: code, Err: err, Silent: true}
}

// Misuse prints a message of the option parser, as getopt does.
func (s *Streams) Misuse(err error) {
	fmt.Fprintln(s.Err, program.PrintableLine(fmt.Sprintf("%s: %v", s.Name, err)))
}

// Information holds the options that print a text and do nothing else: help, version and a
// completion script.
type Information struct {
	help, version bool
	shell         string
}

// Options returns the options that fill i, with the names of the two that the reference has.
func (i *Information) Options(version, help string) []Option {
	return []Option{
		CompletionOption(&i.shell),
		{Name: version, Help: "display version and exit", Set: func(_, _ string) error { i.version = true; return ErrStop }},
		{Name: help, Help: "display this help screen and exit", Set: func(_, _ string) error { i.help = true; return ErrStop }},
	}
}

// Requested reports whether one of the options was given.
func (i *Information) Requested() bool { return i.help || i.version || i.shell != "" }

// Print prints the requested text of a tool with these options.
func (i *Information) Print(w io.Writer, t Tool, all []Option) error {
	if i.shell != "" {
		return PrintCompletion(w, i.shell, all, t.Name, strings.ReplaceAll(t.Name, "_", "-"))
	}
	if i.version {
		_, err := fmt.Fprint(w, t.Version)
		return err
	}
	return t.Usage(w, all)
}

// Usage prints the usage of a tool with these options.
func (t Tool) Usage(w io.Writer, all []Option) error {
	_, err := fmt.Fprint(w, t.Version, t.Head, Usage(all))
	return err
}
