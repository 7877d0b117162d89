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
	serialDigits = 49 // in the file; more is no number of 20 bytes
	serialBits   = 160
	startDigits  = 20 // of the first number of a CA
)

// nextSerial returns a serial number that was never returned before, by us or by
// swtpm_localca, whatever ends a process in between.
//
// The file has the last number that was used, in decimal digits; what follows
// them does not matter. The number is written over the old one, in one write of
// less than a sector: that is done or not done, and nobody needs the right to
// rename files, which SELinux's policies for libvirt do not give.
//
// Source: swtpm 0.11, swtpm_localca.c.
func (c *CA) nextSerial(ctx context.Context) (*big.Int, error) {
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
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		file, err = dir.Create(name, 0o664)
	}
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	next, err := advance(file, c.random)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("serial number in %q: %w", c.cfg.Serial, err)
	}
	if made {
		err = dir.Sync()
	}
	return next, err
}

// advance writes the number after the one in the file into it, and returns it
// when it is on the disk.
func advance(file *safefile.File, random io.Reader) (*big.Int, error) {
	text := make([]byte, serialDigits+1)
	n, err := file.ReadAt(text, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	next, ok := after(string(text[:n]))
	if !ok {
		start, err := firstSerial(random)
		if err != nil {
			return nil, err
		}
		next = start.Add(start, big.NewInt(1))
	}
	digits := next.String()
	if _, err := file.WriteAt([]byte(digits), 0); err != nil {
		return nil, err
	}
	if file.Size > int64(len(digits)) {
		if err := file.Truncate(int64(len(digits))); err != nil {
			return nil, err
		}
	}
	return next, file.Sync()
}

// after returns the number after the one that text begins with; false if there is
// none that a certificate may have.
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

// firstSerial returns where the numbers of a CA begin: 20 digits from 0 to 8 at
// random.
//
// Compat: swtpm 0.11 takes 1 to 8 as the first digit and 0 to 8 for all others. A
// 1 with at most a 7 behind it is a number that swtpm 0.7, which counts in 64
// bits, goes on with; it begins at 0 again with larger ones.
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
		if b[0] < 255/limit*limit { // each digit as likely as the others
			digits = append(digits, '0'+b[0]%limit)
		}
	}
	n, _ := new(big.Int).SetString(string(digits), 10)
	return n, nil
}
