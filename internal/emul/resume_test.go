package emul

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// handedOver returns the saved state of a TPM that ended in order, and its disk.
func handedOver(t *testing.T) (*savedStates, *bench) {
	t.Helper()
	c := &savedStates{}
	before := newBench(t, Options{Handover: c})
	before.e.volatile = readPayload(t, tpm.V20, tpm.Volatile)
	before.on(t)
	before.Ready()
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	return c, before
}

// next is the next process, on the same disk.
func (b *bench) next(t *testing.T, c *savedStates) *bench {
	t.Helper()
	n := newBench(t, Options{Handover: c})
	n.e.volatile, n.d.items = b.e.volatile, b.d.items
	return n
}

// faulty is a disk whose operations can fail.
type faulty struct {
	*disk
	load, lock error
}

func (f *faulty) Load(name string) ([]byte, error) {
	if f.load != nil {
		return nil, f.load
	}
	return f.disk.Load(name)
}

func (f *faulty) Lock() error {
	if f.lock != nil {
		return f.lock
	}
	return f.disk.Lock()
}

var resumeErrorsErrno = func(e syscall.Errno) error { return fmt.Errorf("fake: %w", e) }

// resumeErrorsCases are the cases of TestResumeErrors.
var resumeErrorsCases = []struct {
	name             string
	open, load, lock error
	bad              func(b []byte) []byte
	system           bool
}{
	{name: "open EIO", open: resumeErrorsErrno(syscall.EIO), system: true},
	{name: "open ENOMEM", open: resumeErrorsErrno(syscall.ENOMEM), system: true},
	{name: "open EACCES", open: resumeErrorsErrno(syscall.EACCES), system: true},
	{name: "open ENOENT", open: resumeErrorsErrno(syscall.ENOENT), system: true},
	{name: "lock ENOLCK", lock: resumeErrorsErrno(syscall.ENOLCK), system: true},
	{name: "locked", lock: nv.ErrLocked, system: true},
	{name: "read EIO", load: resumeErrorsErrno(syscall.EIO), system: true},
	{name: "read ESTALE", load: resumeErrorsErrno(syscall.ESTALE), system: true},
	{name: "missing", load: fs.ErrNotExist, system: true},
	{name: "checksum", bad: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }},
	{name: "short", bad: func(b []byte) []byte { return b[:4] }},
	{name: "content", load: nv.ErrDamaged},
}

// TestResumeErrors checks that a system error on the way to the state does not change a byte of
// the saved state, and that the next try succeeds. Bad content ends the resume, and the TPM starts
// fresh.
func TestResumeErrors(t *testing.T) {

	for _, g := range resumeErrorsCases {
		t.Run(g.name, func(t *testing.T) {
			c, before := handedOver(t)
			n := before.next(t, c)
			was := fmt.Sprintf("%x %+v", c.all, c.cells)
			f := &faulty{disk: n.d, load: g.load, lock: g.lock}
			items := n.d.items
			if g.bad != nil {
				const name = "tpm2-00.permall"
				n.d.items = map[string][]byte{name: g.bad(bytes.Clone(items[name]))}
			}
			opened := g.open
			n.opt.Open = func() (*nv.Store, error) {
				if opened != nil {
					return nil, opened
				}
				return nv.New(f, "tpm2-00.", nil), nil
			}
			n.ctx = ended() // does not wait for the lock
			ok, err := n.Resume(false)
			if ok || g.system != (err != nil) {
				t.Fatalf("Resume = %t, %v; want a system error: %t", ok, err, g.system)
			}
			if said := strings.Contains(strings.Join(*n.notes, ""), "starting fresh"); said == g.system {
				t.Errorf("it said %q", *n.notes)
			}
			if now := fmt.Sprintf("%x %+v", c.all, c.cells); (now == was) != g.system {
				t.Errorf("the saved state has changed: %t", now != was)
			}
			if !g.system {
				return
			}
			if err := n.next(t, c).closeAfter(t, opened, f); err != nil {
				t.Error(err)
			}
			if now := fmt.Sprintf("%x %+v", c.all, c.cells); now != was {
				t.Error("the end of a process that could not resume has changed the saved state")
			}
			opened, f.load, f.lock = nil, nil, nil
			if ok, err := n.Resume(false); err != nil || !ok || !n.On() {
				t.Errorf("the second try: %t, %v", ok, err)
			}
		})
	}
}

// closeAfter closes the TPM after a try to resume that fails.
func (b *bench) closeAfter(t *testing.T, open error, f *faulty) error {
	t.Helper()
	b.opt.Open = func() (*nv.Store, error) { return nv.New(f, "tpm2-00.", nil), open }
	b.ctx = ended()
	if ok, err := b.Resume(false); ok || err == nil {
		t.Errorf("Resume = %t, %v", ok, err)
	}
	return b.Close()
}

func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestResumeStrict checks that a process whose settings may be wrong changes nothing, whatever the
// error is.
func TestResumeStrict(t *testing.T) {
	c, before := handedOver(t)
	was := fmt.Sprintf("%x %+v", c.all, c.cells)
	n := before.next(t, c)
	n.opt.Version = tpm.V12
	if ok, err := n.Resume(true); ok || err == nil || !strings.Contains(err.Error(), "other version") {
		t.Errorf("Resume = %t, %v", ok, err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if now := fmt.Sprintf("%x %+v", c.all, c.cells); now != was {
		t.Error("the saved state has changed")
	}
	if ok, err := newBench(t, Options{Handover: &savedStates{}}).Resume(true); ok || err != nil {
		t.Errorf("with nothing saved: %t, %v", ok, err)
	}
}

// TestLeaveOnFullDisk checks that a TPM2_Shutdown that cannot be stored at the end of the process
// is undone, and that the newer slot has the state from before it.
func TestLeaveOnFullDisk(t *testing.T) {
	c := &savedStates{}
	b := newBench(t, Options{Handover: c})
	b.e.volatile = readPayload(t, tpm.V20, tpm.Volatile)
	b.on(t)
	b.Ready()
	before := bytes.Clone(c.all[0])
	changed := bytes.Clone(b.e.fresh) // what TPM2_Shutdown stores
	changed[len(changed)-1] ^= 1
	b.e.fresh, b.d.broken = changed, syscall.ENOSPC
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.e.took(), "Process"); n == 0 {
		t.Error("there was no TPM2_Shutdown")
	}
	if len(c.all) != 2 || !bytes.Equal(c.all[0][20:], before[20:]) {
		t.Fatal("the newer slot is not for the state before TPM2_Shutdown")
	}
	n := b.next(t, c)
	n.d.broken = syscall.ENOSPC // still
	if ok, err := n.Resume(false); err != nil || !ok {
		t.Errorf("Resume = %t, %v; said %q", ok, err, *n.notes)
	}
	if want := fmt.Sprintf("%s:%d", tpm.Volatile.Name(), len(before)-savedSize); !slices.Contains(n.e.loads, want) {
		t.Errorf("loaded %s, want %s", n.e.loads, want)
	}
}

// TestResumeCrashes checks that a start of the engine that does not return is counted, up to a
// limit, and that a process that ends before or after it is not counted.
func TestResumeCrashes(t *testing.T) {
	c, before := handedOver(t)
	for range maxResumes {
		n := before.next(t, c)
		func() {
			defer func() { _ = recover() }()
			n.e.startErr = nil
			n.TPM.engine = &crashing{n.e}
			_, _ = n.Resume(false)
		}()
	}
	if c.cells.Resumes != maxResumes {
		t.Fatalf("%d starts are counted, want %d", c.cells.Resumes, maxResumes)
	}
	n := before.next(t, c)
	if ok, err := n.Resume(false); ok || err != nil || !strings.Contains(strings.Join(*n.notes, ""), "the engine ended the process 5 times") {
		t.Errorf("Resume = %t, %v; said %q", ok, err, *n.notes)
	}
}

// crashing is an engine whose start does not return.
type crashing struct{ *engine }

func (c *crashing) Start() error { panic("SIGSEGV") }
