package safefile

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenInput opens a file for reading whose path a user has named: a profile, a key, a
// certificate. The path may be a trap: a FIFO without a writer, a terminal, a device
// without an end. OpenInput never waits, and a terminal does not become the controlling
// one. The file must be regular or /dev/null; a path that names a descriptor of this
// process, such as /dev/stdin and /dev/fd/N, may be a pipe.
func OpenInput(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = &fs.PathError{Op: "open", Path: path, Err: unix.EISDIR}
	case !allowed(path, info):
		err = &fs.PathError{Op: "open", Path: path, Err: ErrType}
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// ReadInput returns the whole file at path, which OpenInput opens and which has at most
// limit bytes.
func ReadInput(path string, limit int64) ([]byte, error) {
	f, _, err := OpenInput(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readUpTo(f, path, limit)
}

// readUpTo returns all bytes of f, which are at most limit.
func readUpTo(f io.Reader, path string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		clear(b)
		b, err = nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("larger than %d bytes", limit)}
	}
	return b, err
}

// allowed reports whether the file that was opened as path may be read.
func allowed(path string, info fs.FileInfo) bool {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return true
	case mode.Type() == fs.ModeNamedPipe:
		return path == "/dev/stdin" || strings.HasPrefix(path, "/dev/fd/") || strings.HasPrefix(path, "/proc/self/fd/")
	case mode.Type() == fs.ModeDevice|fs.ModeCharDevice:
		st, ok := info.Sys().(*syscall.Stat_t)
		return ok && st.Rdev == unix.Mkdev(1, 3)
	}
	return false
}
