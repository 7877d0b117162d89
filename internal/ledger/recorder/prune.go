package recorder

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

const (
	// maxFile is the size in bytes of the largest file that is read: ledger.MaxRecords
	// of the largest ones.
	maxFile = 4 << 20

	// maxGood is the number of older files that stay because a policy last succeeded in
	// their boot.
	maxGood = 16

	// maxKnown is the number of policies that are compared: a guest can make thousands succeed in
	// each boot.
	maxKnown = 256
)

// input is the file of an earlier boot.
type input struct {
	*ledger.Reader
	fd   int
	left int64
}

// openBoot opens the file of a boot. It is read into buffer, memory of the writing goroutine: one
// file at a time.
func (r *Recorder) openBoot(d *safefile.Dir, boot uint64, buffer []byte) (*input, error) {
	name := ledger.Name(r.opt.Prefix, boot)
	fd, err := d.OpenFD(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	in := &input{fd: fd}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		in.close()
		return nil, &fs.PathError{Op: "stat", Path: d.Path(name), Err: err}
	}
	if err := d.Check(name, &st); err != nil {
		in.close()
		return nil, err
	}
	if in.left = st.Size; in.left > maxFile {
		in.close()
		return nil, ledger.ErrDamaged
	}
	if in.Reader, err = ledger.NewReader(in, buffer); err != nil {
		in.close()
		return nil, err
	}
	return in, nil
}

// Read reads the bytes that the file had when it was opened.
func (in *input) Read(b []byte) (int, error) {
	b = b[:min(int64(len(b)), in.left)]
	if len(b) == 0 {
		return 0, io.EOF
	}
	for {
		n, err := unix.Read(in.fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		}
		in.left -= int64(n)
		return n, nil
	}
}

func (in *input) close() { unix.Close(in.fd) }

// boots returns the numbers of the boots that have files, the newest first. The directory may be
// that of many TPMs: it is read piece by piece.
func (r *Recorder) boots(d *safefile.Dir) ([]uint64, error) {
	fd, err := d.OpenFD(".", unix.O_RDONLY|unix.O_DIRECTORY, 0) // it has its own position
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var all []uint64
	for {
		n, err := unix.Getdents(fd, r.scratch)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: r.opt.Dir, Err: err}
		case n == 0:
			slices.SortFunc(all, func(a, b uint64) int { return cmp.Compare(b, a) })
			return all, nil
		}
		for b := r.scratch[:n]; len(b) > 0; {
			var name []byte
			name, b = nextName(b)
			if !bytes.HasPrefix(name, []byte(r.opt.Prefix)) {
				continue
			}
			if boot, ok := ledger.ParseName(r.opt.Prefix, string(name)); ok {
				all = append(all, boot)
			}
		}
	}
}

// nextName returns the name of the first entry that getdents64(2) has returned, and the rest.
func nextName(b []byte) (name, rest []byte) {
	const size, nameAt = 16, 19
	n := int(binary.NativeEndian.Uint16(b[size:]))
	name, _, _ = bytes.Cut(b[nameAt:n], []byte{0})
	return name, b[n:]
}

// prune removes the files of old boots. The newest ones stay, and those in which a policy
// over PCRs last succeeded.
func (r *Recorder) prune(d *safefile.Dir, boots []uint64) {
	keep := max(r.opt.Boots-1, 0) // besides the new one
	if len(boots) <= keep {
		return
	}
	var good []ledger.Policy
	spared := 0
	for i, n := range boots {
		var last bool
		good, last = r.lastGood(d, n, good)
		switch {
		case i < keep:
		case last && spared < maxGood:
			spared++
		default:
			if err := d.Remove(ledger.Name(r.opt.Prefix, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				r.opt.Warn("boot ledger: %v", err)
			}
		}
	}
}

// lastGood adds to known the policies that succeeded in a boot and in none of the newer ones.
// It reports whether there are any.
func (r *Recorder) lastGood(d *safefile.Dir, boot uint64, known []ledger.Policy) (all []ledger.Policy, found bool) {
	in, err := r.openBoot(d, boot, r.scratch)
	if err != nil {
		return known, false
	}
	defer in.close()
	for {
		rec, err := in.Next()
		if err != nil || len(known) >= maxKnown {
			return known, found
		}
		if rec.Kind != ledger.KindPolicy {
			continue
		}
		p, err := rec.Policy()
		if err != nil || p.Result != 0 || slices.ContainsFunc(known, p.SamePolicy) {
			continue
		}
		p.Digests = nil // in memory of the reader
		known, found = append(known, p), true
	}
}
