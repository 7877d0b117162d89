// Package infile opens the files that a program reads because somebody has named
// them: profiles, keys, certificates, blobs. The name may be a trap: a FIFO that
// nobody feeds, a terminal, a device without an end, a file of any size.
package infile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrType means that the file is not regular.
var ErrType = errors.New("not a regular file")

// Open opens the file at path for reading, and returns what is known of it. It never
// waits, and a terminal does not become the controlling one. The file is a regular
// one or /dev/null; a path that names a descriptor of this process, as /dev/stdin and
// /dev/fd/N do, may be a pipe.
func Open(path string) (*os.File, fs.FileInfo, error) {
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

// Read returns the whole file at path, which has at most limit bytes. What may be
// read is as with Open.
func Read(path string, limit int64) ([]byte, error) {
	f, _, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
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
