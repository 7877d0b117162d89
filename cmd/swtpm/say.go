package main

import (
	"fmt"
	"io"
	"os"

	"github.com/swtpm-go/swtpm/internal/program"
)

// say prints lines to standard output, in printable form, because they may quote names of
// files and parts of a state.
func say(format string, args ...any) error {
	_, err := io.WriteString(os.Stdout, program.Printable(fmt.Sprintf(format, args...)))
	return err
}

// warnf prints a warning to standard error, as one line.
func warnf(format string, args ...any) {
	fmt.Fprintln(os.Stderr, program.PrintableLine("swtpm: "+fmt.Sprintf(format, args...)))
}
