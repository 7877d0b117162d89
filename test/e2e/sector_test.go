package e2e_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestPowerCutWithFile checks that a power cut at any moment of several increments leaves a file
// that starts, with the last acknowledged number or its successor. strace records writes, syncs
// and responses; sectors that were not synced are left out one by one.
func TestPowerCutWithFile(t *testing.T) {
	needRoot(t, "the emulator lets nobody else trace it")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, v := range both {
		for name, args := range keyed {
			if !v.runs(name == "plain") {
				continue
			}
			t.Run(string(v)+" "+name, func(t *testing.T) {
				t.Parallel()
				powerCutWithFile(t, v, args)
			})
		}
	}
}

func powerCutWithFile(t *testing.T, v version, args []string) {
	const bumps = 4
	place := harness.TempDir(t)
	image := inFile.file(v, place)
	write(t, image, inFile.makeState(t, v, args...))
	e := start(t, inFile.at(v, place, args...))
	ch := e.power(t, v)
	powered := harness.Read(t, image)
	s := attachTo(t, e, []string{"-y", "-xx", "-s", "65536", "-e", "trace=write,pwrite64,ftruncate,fsync,fdatasync,sendto,sendmsg"})
	for n := range uint64(bumps) {
		if err := ch.bump(2 + n); err != nil {
			t.Fatal(err)
		}
	}
	s.detach(t)
	e.Kill(t)

	d := &sectors{path: image, disk: powered, size: len(powered)}
	cuts := map[string]cut{}
	for _, ev := range events(t, s.file) {
		d.apply(t, ev)
		for _, content := range d.images() {
			c, seen := cuts[content]
			if !seen || d.acknowledged > c.least {
				c.least = d.acknowledged
			}
			c.after = ev.text
			cuts[content] = c
		}
	}
	// strace may have ended before it has seen the end of the last answer.
	if d.acknowledged < bumps-1 || len(cuts) < 2*bumps {
		t.Errorf("strace has seen %d answers, which left %d different states", d.acknowledged, len(cuts))
	}
	next := newDamage(t, inFile, v, args)
	for content, c := range cuts {
		write(t, next.file, []byte(content))
		if err := next.ctrl.Init(0); err != nil {
			t.Errorf("power cut after %s: it does not start: %v", c.after, err)
			continue
		}
		ch := next.open(t, v).withStartup(t)
		if got := ch.number(t); got < uint64(1+c.least) || got > uint64(2+c.least) {
			t.Errorf("power cut after %s: the number is %d, %d was acknowledged", c.after, got, 1+c.least)
		}
		_ = ch.Close()
		if err := next.ctrl.Stop(); err != nil { // it must not write into the next one
			t.Fatal(err)
		}
	}
}

// sectors is a disk with one file.
type sectors struct {
	path         string
	disk         string // as it is for certain
	size         int    // as programs see it
	pending      []sectorWrite
	acknowledged int
}

type sectorWrite struct {
	off   int
	bytes string
}

// apply plays one system call.
func (d *sectors) apply(t *testing.T, ev event) {
	const sector = 512
	p := ev.paths[0]
	switch {
	case strings.HasPrefix(p, "socket:") || strings.HasPrefix(p, "UNIX"):
		if strings.HasPrefix(ev.bytes, "\x80") || strings.HasPrefix(ev.bytes, "\x00\xc4") {
			d.acknowledged++
		}
	case p != d.path:
	case ev.name == "pwrite64":
		for off, b := ev.off, ev.bytes; b != ""; {
			n := min(len(b), sector-off%sector)
			d.pending = append(d.pending, sectorWrite{off, b[:n]})
			off, b = off+n, b[n:]
		}
		d.size = max(d.size, ev.off+len(ev.bytes))
	case ev.name == "fdatasync" || ev.name == "fsync":
		d.disk, d.pending = d.image(d.pending), nil
	default:
		t.Errorf("%s is not in the model", ev.text)
	}
}

func (d *sectors) image(writes []sectorWrite) string {
	b := make([]byte, d.size)
	copy(b, d.disk)
	for _, w := range writes {
		copy(b[w.off:], w.bytes)
	}
	return string(b)
}

// images are what a power cut may leave: nothing of what is not synced, all, a
// beginning, one sector, all but one.
func (d *sectors) images() []string {
	list := []string{d.disk, d.image(d.pending)}
	for i := range d.pending {
		list = append(list, d.image(d.pending[:i]), d.image(d.pending[i:i+1]), d.image(slices.Delete(slices.Clone(d.pending), i, i+1)))
	}
	return list
}
