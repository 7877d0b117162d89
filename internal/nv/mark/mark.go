// Package mark records the newest state of each TPM that was seen on this host. The files
// are not next to the states, so that an old copy of a state does not include an old mark.
//
// docs/generation.md specifies the files.
package mark

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

const (
	magic   = "swtpmMRK"
	bodyEnd = 64
	size    = bodyEnd + sha256.Size
)

// Dir is a directory with marks.
type Dir struct{ path string }

// Open returns the marks in a directory. Its error wraps an errno if this process may not use
// the directory.
func Open(path string) (*Dir, error) {
	if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
		return nil, fmt.Errorf("marks in %q: %w", path, err)
	}
	return &Dir{path}, nil
}

// Read returns the mark of a TPM. Its error is fs.ErrNotExist if the mark is missing or
// damaged.
func (d *Dir) Read(id generation.Identity) (generation.Mark, error) {
	fd, err := d.open(id, unix.O_RDONLY)
	if err != nil {
		return generation.Mark{}, err
	}
	defer unix.Close(fd)
	var b [size + 1]byte
	n, err := unix.Pread(fd, b[:], 0)
	if err != nil {
		return generation.Mark{}, fmt.Errorf("read a mark in %q: %w", d.path, err)
	}
	return decode(b[:n], id)
}

// Write overwrites the mark of a TPM. It does not sync: a mark that is lost costs a
// warning at most.
func (d *Dir) Write(m generation.Mark) error {
	fd, err := d.open(m.Identity, unix.O_RDWR|unix.O_CREAT)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, encode(m))
	if err == nil && n != size {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write a mark in %q: %w", d.path, err)
	}
	return nil
}

// open opens the file of a mark, which must be a regular one.
func (d *Dir) open(id generation.Identity, flags int) (int, error) {
	return d.openName(name(id), flags)
}

func (d *Dir) openName(name string, flags int) (int, error) {
	path := filepath.Join(d.path, name)
	fd, err := unix.Open(path, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return -1, &fs.PathError{Op: "open mark", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("not a regular file")
	}
	if err != nil {
		unix.Close(fd)
		return -1, &fs.PathError{Op: "open mark", Path: path, Err: err}
	}
	return fd, nil
}

// name returns the name of the file of a TPM. It does not reveal the identity.
func name(id generation.Identity) string {
	n := nameOf(id)
	return hex.EncodeToString(n[:])
}

func nameOf(id generation.Identity) [16]byte { return [16]byte(sum(id, []byte("name"))) }

// sum authenticates b for a TPM. An emulator that was taken over can write all marks of
// the host; it knows no identity but its own.
func sum(id generation.Identity, b []byte) []byte {
	h := hmac.New(sha256.New, id[:])
	h.Write(b)
	return h.Sum(nil)
}

func encode(m generation.Mark) []byte {
	b := append(make([]byte, 0, size), magic...)
	for _, g := range m.Known {
		b = binary.BigEndian.AppendUint64(b, g)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(m.Time.UnixNano()))
	b = append(b, m.Place[:]...)
	return append(b, sum(m.Identity, b)...)
}

func decode(b []byte, id generation.Identity) (generation.Mark, error) {
	m := generation.Mark{Identity: id}
	if len(b) != size || !bytes.HasPrefix(b, []byte(magic)) || !hmac.Equal(b[bodyEnd:], sum(id, b[:bodyEnd])) {
		return m, fmt.Errorf("damaged mark of %d bytes: %w", len(b), fs.ErrNotExist)
	}
	m.Known = decodeVector(b)
	m.Time = time.Unix(0, int64(binary.BigEndian.Uint64(b[32:]))).UTC()
	m.Place = generation.Place(b[40:])
	return m, nil
}

// firstUser is the first uid of ordinary users.
//
// Source: Debian Policy Manual, section 9.2.2; login.defs(5), UID_MIN.
const firstUser = 1000

// List returns the generations in the marks of a directory, by the names of the files. It cannot
// authenticate the marks, because it does not know the identities. It omits files that are not
// marks, and files of ordinary users, who may create files in the directory.
func List(path string) (map[string]generation.Vector, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("marks in %q: %w", path, err)
	}
	all := map[string]generation.Vector{}
	d := Dir{path}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		fd, err := d.openName(e.Name(), unix.O_RDONLY)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		var b [size + 1]byte
		n, err := unix.Pread(fd, b[:], 0)
		err = errors.Join(err, unix.Fstat(fd, &st))
		unix.Close(fd)
		if err != nil {
			return nil, fmt.Errorf("read mark %q: %w", filepath.Join(path, e.Name()), err)
		}
		if n == size && bytes.HasPrefix(b[:], []byte(magic)) && (st.Uid < firstUser || int(st.Uid) == os.Getuid()) {
			all[e.Name()] = decodeVector(b[:])
		}
	}
	return all, nil
}

func decodeVector(b []byte) (v generation.Vector) {
	for i := range v {
		v[i] = binary.BigEndian.Uint64(b[len(magic)+8*i:])
	}
	return v
}
