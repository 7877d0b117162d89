package main

import (
	"fmt"
	"io"
	"os"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// log prints messages: errors to stderr and others to stdout, or all to the log file if
// there is one.
type log struct {
	out, err io.Writer
	file     *os.File // nil for none
}

// openLog opens the log file at path; "" means that there is none.
func (p *localCA) openLog(path string) (*log, error) {
	if path == "" {
		return &log{out: p.Stdout, err: p.Stderr}, nil
	}
	f, err := safefile.OpenOutput(path, os.O_APPEND, 0o640)
	if err != nil {
		return nil, cli.Complain("Cannot write to logfile %s: %s", path, cli.Strerror(err))
	}
	return &log{out: f, err: f, file: f}, nil
}

// Infof prints a message.
func (l *log) Infof(format string, args ...any) {
	fmt.Fprintln(l.out, program.Printable(fmt.Sprintf(format, args...)))
}

// Errorf prints an error.
func (l *log) Errorf(format string, args ...any) {
	fmt.Fprintln(l.err, program.Printable(fmt.Sprintf(format, args...)))
}

func (l *log) close() {
	if l.file != nil {
		l.file.Close()
	}
}
