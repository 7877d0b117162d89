package setup

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/swtpm-go/swtpm/internal/cli"
	prog "github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// messages is a manufacture.Log that prints to stdout and stderr, or to a file.
type messages struct {
	stdout, stderr io.Writer
	file           *os.File // nil for none

	mu     sync.Mutex
	before func() // called before each message; nil for none
}

// openLog opens the log file, which may be missing but not a symbolic link.
func (m *messages) openLog(path string) error {
	f, err := safefile.OpenOutput(path, os.O_APPEND, 0o640)
	if err != nil {
		return cli.Complain("Error opening file %s: %s", path, cli.Strerror(err))
	}
	m.file = f
	return nil
}

func (m *messages) Infof(format string, args ...any)  { m.print(m.stdout, format, args...) }
func (m *messages) Errorf(format string, args ...any) { m.print(m.stderr, format, args...) }

func (m *messages) print(w io.Writer, format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file != nil {
		w = m.file
	}
	if m.before != nil {
		m.before()
	}
	line := prog.Printable(fmt.Sprintf(format, args...))
	if _, err := fmt.Fprintln(w, line); err != nil && m.file != nil {
		_, _ = fmt.Fprintf(m.stderr, "Error writing to the log file %s: %s\n%s\n", m.file.Name(), cli.Strerror(err), line)
	}
}

func (m *messages) close() {
	if m.file != nil {
		_ = m.file.Close()
	}
}
