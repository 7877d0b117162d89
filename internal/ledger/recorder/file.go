package recorder

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// file is the file of the present boot. Only one goroutine at a time writes it.
type file struct {
	boot   uint64 // its number; 0 before the first record
	writer ledger.Writer
	since  uint32 // milliseconds from the power-on to the start of this process's part
	failed bool   // an error was logged: nothing more is written in this boot
}

// Flush begins to write the pending records, and does not wait for it.
func (r *Recorder) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush(r.opt.Background)
}

// flush begins to write.
func (r *Recorder) flush(background func(f func())) {
	if r.ready && !r.ring.empty() && !r.writing {
		r.writing = true
		background(r.job)
	}
}

// Wait waits until the pending records are written, at most for d.
func (r *Recorder) Wait(d time.Duration) {
	r.mu.Lock()
	r.flush(goroutine) // Background may wait for the disk, and the threads of the servers are free
	r.mu.Unlock()
	late := false
	timer := time.AfterFunc(d, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		late = true
		r.idle.Broadcast()
	})
	defer timer.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.writing && !late {
		r.idle.Wait()
	}
}

// write writes the pending records until none are left.
func (r *Recorder) write() {
	r.mu.Lock()
	for !r.ring.empty() {
		records := r.ring.b[r.ring.begin:r.ring.end]
		r.mu.Unlock()
		for rest := records; len(rest) > 0; { // those of one boot at a time
			n := ofBoot(rest)
			r.writeBoot(rest[:n])
			rest = rest[n:]
		}
		r.mu.Lock()
		r.ring.written(len(records))
	}
	r.release()
	r.writing = false
	r.idle.Broadcast()
	r.mu.Unlock()
}

// ofBoot returns the size of the records of one boot at the beginning of b.
func ofBoot(b []byte) int {
	n := recordSize(b)
	for n < len(b) && b[n+2] != kindBegin {
		n += recordSize(b[n:])
	}
	return n
}

// writeBoot writes records of one boot.
func (r *Recorder) writeBoot(records []byte) {
	f := &r.file
	if records[2] == kindBegin {
		*f = file{}
	}
	if f.failed {
		return
	}
	if err := r.tryWrite(records); err != nil {
		f.failed = true
		r.opt.Warn("boot ledger not written until the next power-on: %v", err)
	}
}

func (r *Recorder) tryWrite(records []byte) error {
	d, err := safefile.OpenWith(r.opt.Dir, safefile.Options{}) // new files belong to the user of the process, as its state
	if err != nil {
		return err
	}
	defer d.Close()
	flags := unix.O_WRONLY | unix.O_APPEND
	out, rest := records, records // what is written, and the records in it that lack a checksum
	if records[2] == kindBegin {
		var created bool
		if out, rest, created, err = r.open(d, records); err != nil {
			return err
		}
		if created {
			flags |= unix.O_CREAT | unix.O_EXCL
		}
	}
	for len(rest) > 0 {
		n := recordSize(rest)
		at := rest[4:8]
		binary.BigEndian.PutUint32(at, later(binary.BigEndian.Uint32(at), r.file.since))
		r.file.writer.Seal(rest[:n])
		rest = rest[n:]
	}
	return r.append(d, flags, out)
}

// open begins a boot: with a new file, or with the last one if the TPM that arrived is in its
// boot. records begin with the header of a new file. It returns what is to be written, which
// uses the memory of records, and the part of it without checksums.
func (r *Recorder) open(d *safefile.Dir, records []byte) (out, rest []byte, created bool, err error) {
	boots, err := r.boots(d)
	if err != nil {
		return nil, nil, false, err
	}
	how := records[3]
	n := recordSize(records)
	header, rest := records[recordHead:n], records[n:]
	if how != beginFresh && len(boots) > 0 {
		if w, equal, since, ok := r.continueLast(d, boots[0], header, rest, how == beginSame); ok {
			r.file.boot, r.file.writer, r.file.since = boots[0], w, since
			if equal { // the file gives these values already
				n += recordSize(rest)
			}
			const size = recordHead + crcSize // of the mark, in memory that is not needed any more
			out = records[n-size:]
			appendHead(out[:0], ledger.Record{Kind: ledger.KindRestart}, 0)
			return out, out, false, nil
		}
	}
	r.file.boot = 1
	if len(boots) > 0 {
		r.file.boot = boots[0] + 1
	}
	if len(boots) > 0 {
		r.compareTPM(d, boots, [16]byte(header[identityAt:]))
	}
	r.prune(d, boots)
	r.file.writer.SealHeader(header, r.file.boot)
	return records[recordHead:], rest, true, nil
}

// append appends b to the file of the boot. A file that is not a regular file is an error.
func (r *Recorder) append(d *safefile.Dir, flags int, b []byte) error {
	name := ledger.Name(r.opt.Prefix, r.file.boot)
	fd, err := d.OpenFD(name, flags, r.opt.Mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: d.Path(name), Err: err}
	}
	if err := d.Check(name, &st); err != nil {
		return err
	}
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		switch {
		case err == unix.EINTR:
		case err == nil && n == 0:
			return &fs.PathError{Op: "write", Path: d.Path(name), Err: io.ErrShortWrite}
		case err != nil:
			return &fs.PathError{Op: "write", Path: d.Path(name), Err: err}
		default:
			b = b[n:]
		}
	}
	return nil
}

// continueLast returns how to continue the last file, that of boot. ok is false if the TPM that
// arrived is not in that boot. It is in that boot if the records of the file give its values, or
// if the previous process says so (same). header is the header of a new file; rest begins with the
// values of the TPM. equal reports whether the records give the values in rest.
func (r *Recorder) continueLast(d *safefile.Dir, boot uint64, header, rest []byte, same bool) (w ledger.Writer, equal bool, since uint32, ok bool) {
	in, err := r.openBoot(d, boot, r.scratch)
	if err != nil {
		return w, false, 0, false
	}
	defer in.close()
	state := &ledger.State{}
	ended := false
	for {
		rec, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || state.Apply(rec) != nil {
			return w, false, 0, false
		}
		ended = rec.Kind == ledger.KindEnd
	}
	const clockAt = 44
	if ended || in.Records == 0 || in.Records >= measurements || in.TPM != r.opt.TPM || in.Identity != [16]byte(header[identityAt:]) {
		return w, false, 0, false
	}
	_, values, err := ledger.Record{Kind: ledger.KindValues, Body: rest[recordHead : recordSize(rest)-crcSize]}.Values()
	if err != nil {
		return w, false, 0, false
	}
	equal = state.Check(values) == nil
	if clock := binary.BigEndian.Uint64(header[clockAt:]); clock > in.Clock {
		since = uint32(min(clock-in.Clock, 1<<32-1))
	}
	return in.Writer(), equal, since, equal || same
}

// later returns the sum of two times in milliseconds, at most the largest uint32.
func later(a, b uint32) uint32 { return uint32(min(uint64(a)+uint64(b), 1<<32-1)) }

// identityAt is where a header has the identity of the TPM.
const identityAt = 12

// headerRead is how much of a file is read for its header: one page, which the list of files has used.
const headerRead = 4 << 10

// compareTPM warns if another TPM did the last of boots: what guests have sealed with its keys is lost
// with them. It does not warn if that is not known: an identity is zeros, or it began because
// another program stored the state.
func (r *Recorder) compareTPM(d *safefile.Dir, boots []uint64, identity [16]byte) {
	var none [16]byte
	last := r.identityOf(d, boots[0])
	if last == identity || last == none || identity == none || ledger.AfterGap(identity) {
		return
	}
	if ledger.AfterGap(last) && slices.ContainsFunc(boots[1:], func(n uint64) bool { return r.identityOf(d, n) == identity }) {
		return // the last one may have continued with this one
	}
	r.opt.Warn("this TPM is not the one of boot %d (identity %x, was %x): keys of the guest are missing; see swtpm boots explain", boots[0], identity, last)
}

// identityOf returns the identity of the TPM of a boot, zeros if its file cannot be read.
func (r *Recorder) identityOf(d *safefile.Dir, boot uint64) (identity [16]byte) {
	in, err := r.openBoot(d, boot, r.scratch[:headerRead])
	if err != nil {
		return identity
	}
	defer in.close()
	return in.Identity
}
