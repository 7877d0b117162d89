package libtpms_test

import (
	"context"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// patience is how long something may take that must happen.
const patience = 5 * time.Minute

// versions of the TPM, and the prefixes of their state files.
var versions = map[tpm.Version]string{tpm.V12: "tpm-00.", tpm.V20: "tpm2-00."}

// disk is a backend in memory. While gate is held, Store waits.
type disk struct {
	mu     sync.Mutex
	items  map[string][]byte
	broken error // what Store fails with
	room   int   // Stores that succeed all the same
	stores int

	gate    sync.Mutex
	waiting chan bool // gets a value for each Store that begins, if not nil
}

func newDisk() *disk { return &disk{items: map[string][]byte{}} }

func (d *disk) Load(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.items[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return append([]byte(nil), b...), nil
}

func (d *disk) Store(name string, blob []byte) error {
	if d.waiting != nil {
		d.waiting <- true
	}
	d.gate.Lock()
	defer d.gate.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.room > 0 {
		d.room--
	} else if d.broken != nil {
		return d.broken
	}
	d.stores++
	d.items[name] = append([]byte(nil), blob...)
	return nil
}

func (d *disk) Delete(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.items[name]; !ok {
		return fs.ErrNotExist
	}
	delete(d.items, name)
	return nil
}

func (d *disk) Unchanged(string) bool { return true }
func (d *disk) Lock() error           { return nil }
func (d *disk) Unlock() error         { return nil }
func (d *disk) Close() error          { return nil }

// newTPM returns a TPM that is off, with its state on d. There is one library,
// so the previous TPM must be closed.
func newTPM(t *testing.T, d *disk, o emul.Options) *emul.TPM {
	t.Helper()
	if o.Open == nil {
		o.Open = func() (*nv.Store, error) { return nv.New(d, versions[o.Version], o.Keys.File), nil }
	}
	o.Where = "memory"
	o.Error = t.Logf
	x, err := emul.New(context.Background(), libtpms.Engine(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x
}

// started returns a TPM that has been started.
func started(t *testing.T, d *disk, v tpm.Version) *emul.TPM {
	t.Helper()
	x := newTPM(t, d, emul.Options{Version: v})
	powerOn(t, x)
	return x
}

// powerOn sends INIT and TPM_Startup, clear.
func powerOn(t *testing.T, x *emul.TPM) {
	t.Helper()
	if err := x.Init(false); err != nil {
		t.Fatal(err)
	}
	typ := uint16(0)
	if x.Version() == tpm.V12 {
		typ = 1
	}
	if rsp := run(t, x, tpm.Startup(x.Version(), typ)); code(rsp) != 0 {
		t.Fatalf("TPM Startup = %x", rsp)
	}
}

// run executes a command.
func run(t *testing.T, x *emul.TPM, cmd []byte) []byte {
	t.Helper()
	rsp, err := x.Execute(cmd)
	if h, ok := tpm.ParseHeader(rsp); err != nil || !ok || int(h.Size) != len(rsp) {
		t.Fatalf("Execute(%.60x) = %x, %v, want a response", cmd, rsp, err)
	}
	return rsp
}

func code(rsp []byte) tpm.Result {
	h, _ := tpm.ParseHeader(rsp)
	return tpm.Result(h.Code)
}

// send makes a TPM a transport of go-tpm.
type send struct{ x *emul.TPM }

func (s send) Send(cmd []byte) ([]byte, error) { return s.x.Execute(cmd) }
