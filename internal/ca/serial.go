package ca

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// Limits of serial numbers.
const (
	serialDigits = 49 // digits of the largest number, which has 20 bytes
	serialBits   = 160
	startDigits  = 20 // digits of the first number of a CA
)

// nextSerials returns n serial numbers that neither this program nor swtpm_localca has
// used before, even if one of them was interrupted by a crash.
//
// The file has the last number in decimal digits; text after them is ignored. The new
// last number overwrites the old one in a write of less than a sector, which is atomic.
// It is not written to a new file, because SELinux's policies for libvirt do not permit
// renaming files.
//
// Source: swtpm 0.11, swtpm_localca.c.
func (c *CA) nextSerials(ctx context.Context, n int) ([]*big.Int, error) {
	unlock, err := c.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, err := safefile.Open(filepath.Dir(c.cfg.Serial))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	name := filepath.Base(c.cfg.Serial)
	file, err := dir.Open(name, os.O_RDWR)
	created := errors.Is(err, fs.ErrNotExist)
	if created {
		file, err = dir.Create(name, 0o664)
	}
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	serials, err := advance(file, c.random, n)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("serial number in %q: %w", c.cfg.Serial, err)
	}
	if created {
		err = dir.Sync()
	}
	return serials, err
}

// advance returns the next count numbers after the number in the file, and stores the last of them
// in the file, which it syncs.
func advance(file *safefile.File, random io.Reader, count int) (serials []*big.Int, err error) {
	text := make([]byte, serialDigits+1)
	n, err := file.ReadAt(text, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	digits := string(text[:n])
	for range count {
		next, ok := after(digits)
		if !ok {
			start, err := firstSerial(random)
			if err != nil {
				return nil, err
			}
			next = start.Add(start, big.NewInt(1))
		}
		serials, digits = append(serials, next), next.String()
	}
	if _, err := file.WriteAt([]byte(digits), 0); err != nil {
		return nil, err
	}
	if file.Size > int64(len(digits)) {
		if err := file.Truncate(int64(len(digits))); err != nil {
			return nil, err
		}
	}
	return serials, file.Sync()
}

// after returns the next number after the one at the beginning of text. It returns false if text
// does not begin with a number, or if the next one is too large for a certificate.
func after(text string) (*big.Int, bool) {
	if len(text) > serialDigits {
		return nil, false
	}
	digits := text[:len(text)-len(strings.TrimLeft(text, "0123456789"))]
	n, ok := new(big.Int).SetString(digits, 10)
	if !ok {
		return nil, false
	}
	n.Add(n, big.NewInt(1))
	return n, n.BitLen() <= serialBits
}

// firstSerial returns the random number of 20 digits from 0 to 8 after which the serial
// numbers of a CA begin.
//
// Compat: C-181: swtpm 0.11 chooses 1 to 8 for the first digit and 0 to 8 for the others. Here
// they are 1 and 0 to 7, because swtpm 0.7 counts in 64 bits and would start again at 0
// after a larger number.
func firstSerial(random io.Reader) (*big.Int, error) {
	digits := []byte{'1'}
	for len(digits) < startDigits {
		var b [1]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return nil, err
		}
		limit := byte(9)
		if len(digits) == 1 {
			limit = 8
		}
		if b[0] < 255/limit*limit { // so that all digits have the same probability
			digits = append(digits, '0'+b[0]%limit)
		}
	}
	n, _ := new(big.Int).SetString(string(digits), 10)
	return n, nil
}
