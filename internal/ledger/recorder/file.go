package recorder

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"slices"
	"time"

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
)

// file is the file of the present boot. Only one goroutine at a time writes it.
type file struct {
	name   string // "" before the first record
	writer *ledger.Writer
	since  uint32 // milliseconds from the power-on to the start of this process's part
	failed bool   // an error was logged: nothing more is written in this boot
}

// Flush begins to write the pending records, and does not wait for it.
func (r *Recorder) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) > 0 && !r.writing {
		r.writing = true
		go r.write()
	}
}

// Wait waits until the pending records are written, at most for d.
func (r *Recorder) Wait(d time.Duration) {
	r.Flush()
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
	for {
		r.mu.Lock()
		items := r.pending
		r.pending = nil
		if len(items) == 0 {
			r.writing = false
			r.idle.Broadcast()
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		for len(items) > 0 { // those of one boot at a time
			n := 1 + slices.IndexFunc(items[1:], func(i item) bool { return i.begin != nil })
			if n == 0 {
				n = len(items)
			}
			r.writeBoot(items[:n])
			items = items[n:]
		}
	}
}

// writeBoot writes records of one boot.
func (r *Recorder) writeBoot(items []item) {
	f := &r.file
	if items[0].begin != nil {
		*f = file{}
	}
	if f.failed {
		return
	}
	if err := r.tryWrite(items); err != nil {
		f.failed = true
		r.opt.Warn("boot ledger not written until the next power-on: %v", err)
	}
}

func (r *Recorder) tryWrite(items []item) error {
	d, err := safefile.Open(r.opt.Dir)
	if err != nil {
		return err
	}
	defer d.Close()
	var b []byte
	flags := unix.O_WRONLY | unix.O_APPEND
	f := &r.file
	if begin := items[0].begin; begin != nil {
		boots, err := r.boots(d)
		if err != nil {
			return err
		}
		if b = f.goOn(d, r.opt.Prefix, boots, begin); b == nil {
			b = f.start(r.opt.Prefix, boots, begin)
			flags |= unix.O_CREAT | unix.O_EXCL
			r.prune(d, boots)
		}
		items = items[1:]
	}
	const recordSize, most = 12, 1 << 16
	size := 0
	for _, i := range items {
		size += recordSize + len(i.record.Body)
	}
	b = slices.Grow(b, min(size, most))
	for _, i := range items {
		i.record.Time = later(i.record.Time, f.since)
		b = f.writer.Append(b, i.record)
	}
	return r.append(d, flags, b)
}

// append appends b to the file of the boot. A file that is not a regular file is an error.
func (r *Recorder) append(d *safefile.Dir, flags int, b []byte) error {
	name := r.file.name
	fd, err := d.OpenFD(name, flags, r.opt.Mode)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if flags&unix.O_CREAT != 0 {
		if err := d.Adopt(fd, name); err != nil {
			return err
		}
	}
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

// boots returns the numbers of the boots that have files, the newest first.
func (r *Recorder) boots(d *safefile.Dir) ([]uint64, error) {
	names, err := d.Names()
	if err != nil {
		return nil, err
	}
	var all []uint64
	for _, name := range names {
		if n, ok := ledger.ParseName(r.opt.Prefix, name); ok {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b uint64) int { return cmp.Compare(b, a) })
	return all, nil
}

// start begins a new file and returns its first bytes.
func (f *file) start(prefix string, boots []uint64, begin *beginning) []byte {
	h := begin.header
	h.Boot = 1
	if len(boots) > 0 {
		h.Boot = boots[0] + 1
	}
	f.name, f.writer = ledger.Name(prefix, h.Boot), &ledger.Writer{}
	b := f.writer.AppendHeader(nil, h)
	if begin.values != nil {
		b = f.writer.Append(b, joined(begin.values))
	}
	return b
}

func joined(values []ledger.Bank) ledger.Record {
	return ledger.Record{Kind: ledger.KindValues, Body: ledger.AppendValues(nil, ledger.Joined, values)}
}

// goOn continues the last file if the TPM that arrived is in the boot of it, and returns
// the bytes that do so, nil if it is not. It is in that boot if the records give its
// values, or if the previous process says so.
func (f *file) goOn(d *safefile.Dir, prefix string, boots []uint64, begin *beginning) []byte {
	if begin.values == nil || len(boots) == 0 {
		return nil
	}
	name := ledger.Name(prefix, boots[0])
	content, _, err := d.Read(name, maxFile)
	if err != nil {
		return nil
	}
	last, err := ledger.Parse(content)
	if err != nil || last.Damage != nil || last.Identity != begin.header.Identity || last.TPM != begin.header.TPM || len(last.Records) >= measurements {
		return nil
	}
	if n := len(last.Records); n > 0 && last.Records[n-1].Kind == ledger.KindEnd {
		return nil
	}
	state, _, err := last.Replay(nil)
	if err != nil {
		return nil
	}
	equal := state.Check(begin.values) == nil
	if !equal && !begin.same {
		return nil
	}
	f.name, f.writer = name, ledger.Continue(content, last)
	if c := begin.header.Clock; c > last.Clock {
		f.since = uint32(min(c-last.Clock, 1<<32-1))
	}
	b := f.writer.Append(nil, ledger.Record{Kind: ledger.KindRestart, Time: f.since})
	if !equal {
		values := joined(begin.values)
		values.Time = f.since
		b = f.writer.Append(b, values)
	}
	return b
}

// later returns the sum of two times in milliseconds.
func later(a, b uint32) uint32 { return uint32(min(uint64(a)+uint64(b), 1<<32-1)) }

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
		name := ledger.Name(r.opt.Prefix, n)
		content, _, err := d.Read(name, maxFile)
		var last bool
		if err == nil {
			good, last = lastGood(content, good)
		}
		switch {
		case i < keep:
		case last && spared < maxGood:
			spared++
		default:
			if err := d.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				r.opt.Warn("boot ledger: %v", err)
			}
		}
	}
}

// lastGood adds to known the policies that succeeded in the boot of a file and in none of
// the newer ones. It reports whether there are any.
func lastGood(content []byte, known []ledger.Policy) (all []ledger.Policy, found bool) {
	b, err := ledger.Parse(content)
	if err != nil {
		return known, false
	}
	for _, rec := range b.Records {
		if rec.Kind != ledger.KindPolicy {
			continue
		}
		p, err := rec.Policy()
		if err != nil || p.Result != 0 || slices.ContainsFunc(known, p.SamePolicy) {
			continue
		}
		known, found = append(known, p), true
	}
	return known, found
}
