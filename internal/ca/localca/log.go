package localca

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tool"
)

// log takes messages: those about errors go to stderr, the others to stdout, all
// of them to the log file if there is one.
type log struct {
	out, err io.Writer
	file     *os.File // nil: none
}

// openLog opens the log file at path, "" for none.
func (p *Program) openLog(path string) (*log, error) {
	if path == "" {
		return &log{out: p.Stdout, err: p.Stderr}, nil
	}
	f, err := openAppend(path)
	if err != nil {
		return nil, tool.Complain("Cannot write to logfile %s: %s", path, tool.Strerror(err))
	}
	return &log{out: f, err: f, file: f}, nil
}

// openAppend opens a file to append to it. It may be a device; it is not a link,
// and has no other name, which may be that of somebody else's file.
func openAppend(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0o640)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1 {
		err = errors.New("it has another name (hard link)")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Infof tells what has happened.
func (l *log) Infof(format string, args ...any) { fmt.Fprintf(l.out, format+"\n", args...) }

// Errorf tells what is wrong.
func (l *log) Errorf(format string, args ...any) { fmt.Fprintf(l.err, format+"\n", args...) }

func (l *log) close() {
	if l.file != nil {
		l.file.Close()
	}
}
