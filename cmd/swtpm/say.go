package main

import (
	"fmt"
	"io"
	"os"

	"github.com/swtpm-go/swtpm/internal/program"
)

// say prints lines to standard output. They may quote what others have chosen, and
// have no control characters but newlines.
func say(format string, args ...any) error {
	_, err := io.WriteString(os.Stdout, program.Printable(fmt.Sprintf(format, args...)))
	return err
}

// warnf prints a warning to standard error, as one line.
func warnf(format string, args ...any) {
	fmt.Fprintln(os.Stderr, program.PrintableLine("swtpm: "+fmt.Sprintf(format, args...)))
}
