package emul

import (
	"bytes"
	"slices"
	"strconv"
	"testing"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// FuzzKept: what is kept is decoded without a panic, and is what was encoded.
func FuzzKept(f *testing.F) {
	x := &TPM{opt: Options{Version: tpm.V20, Library: "0.9.2"}}
	x.sizes.Store(&bufferSizes{size: 4096})
	h := x.keptHeader()
	f.Add(h[:])
	f.Add(append(h[:], "volatile"...))
	f.Add(h[:50])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := x.parseKept(b)
		if (err == nil) == (k == nil) {
			t.Fatalf("parseKept(%x) = %v, %v", b, k, err)
		}
		if k == nil {
			return
		}
		if !bytes.Equal(k.body, b[keptSize:]) || !bytes.Equal(k.permanent[:], b[32:64]) || len(k.library) > 12 {
			t.Errorf("parseKept(%x) = %+v", b, k)
		}
	})
}

// cupboard is a Handover.
type cupboard struct {
	cells handover.Cells
	kept  [][]byte // the newest first
}

func (c *cupboard) Cells() *handover.Cells { return &c.cells }
func (c *cupboard) Slots() [2][]byte       { return [2][]byte{} }
func (c *cupboard) Saved() [][]byte        { return c.kept }

func (c *cupboard) Save(parts ...[]byte) error {
	c.kept = append([][]byte{bytes.Join(parts, nil)}, c.kept[:min(len(c.kept), 1)]...)
	return nil
}

// Who looks at the state just when the process comes back, as swtpm state verify
// does, has the storage lock for a moment: that costs no volatile state.
func TestResumeWaitsForTheLock(t *testing.T) {
	c := &cupboard{}
	before := newBench(t, Options{Handover: c})
	before.e.volatile = readPayload(t, tpm.V20, tpm.Volatile)
	before.on(t)
	now := newBench(t, Options{Handover: c})
	now.e.volatile = before.e.volatile
	now.d.items, now.d.busy = before.d.items, 3
	if ok, err := now.Resume(false); err != nil || !ok {
		t.Fatalf("Resume: %t, %v, %q", ok, err, *now.notes)
	}
	if !now.On() || !now.d.mine || !slices.Contains(now.e.loads, tpm.Volatile.Name()+":"+strconv.Itoa(len(before.e.volatile))) {
		t.Errorf("on %t, locked %t, loaded %s", now.On(), now.d.mine, now.e.loads)
	}
}
