// Package algprofile prepares the algorithm profile of a new TPM 2.0: JSON for libtpms
// 0.10 and later that lists the algorithms and commands of the TPM. It reads the profile
// and removes the algorithms that the host's OpenSSL refuses. libtpms checks the rest.
package algprofile

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// Source says where a profile comes from. One of its fields is set; FD counts if no
// other field is set.
type Source struct {
	JSON string
	Name string // of a profile that libtpms has, or "custom:" and any word
	Path string // of a file with JSON
	FD   int
}

const (
	// maxFile is the largest size of a file in bytes, more than any profile needs.
	maxFile = 1 << 20

	// maxFD is the largest number of bytes that are read from a descriptor.
	maxFD = 10<<10 - 1
)

// Read returns the profile as JSON, without white space around it. It may wait for the
// writer of a pipe.
func Read(s Source) (string, error) {
	text := s.JSON
	var err error
	switch {
	case text != "":
	case s.Name != "":
		// Compat: C-238: the name is not escaped, and errors show it so.
		text = `{"Name":"` + s.Name + `"}`
	case s.Path != "":
		text, err = readFile(s.Path)
	default:
		text, err = readFD(s.FD)
	}
	if err != nil {
		return "", fmt.Errorf("read the algorithm profile: %w", err)
	}
	if strings.Contains(text, "\x00") {
		return "", errors.New("the algorithm profile has a NUL byte and is no JSON")
	}
	return strings.Trim(text, " \t\n\v\f\r"), nil
}

func readFile(path string) (string, error) {
	b, err := safefile.ReadInput(path, maxFile)
	return string(b), err
}

// readFD returns the result of one read and closes the descriptor.
//
// Compat: C-239: one read, because the writer may leave its end open.
func readFD(fd int) (string, error) {
	b := make([]byte, maxFD)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("descriptor %d: %w", fd, err)
		}
		unix.Close(fd)
		return string(b[:n]), nil
	}
}
