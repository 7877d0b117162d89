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

// messages is a manufacture.Log: everything into a file, or on stdout and stderr.
type messages struct {
	stdout, stderr io.Writer
	file           *os.File // nil if there is none

	mu     sync.Mutex
	before func() // called before something is printed; nil if nothing is
}

// openLog has messages go into the file at path. It is made if it is not there,
// and is no link.
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
	// Nobody can be told of a failure.
	_, _ = fmt.Fprintln(w, prog.Printable(fmt.Sprintf(format, args...)))
}

func (m *messages) close() {
	if m.file != nil {
		_ = m.file.Close()
	}
}
