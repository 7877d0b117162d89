package emul

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// FuzzSaved checks that any saved state is decoded without a panic, and a header encoded as it was.
func FuzzSaved(f *testing.F) {
	x := &TPM{opt: Options{Version: tpm.V20, Library: "0.9.2"}}
	x.sizes.Store(&bufferSizes{size: 4096})
	h := x.encodeHeader()
	if len(h) != savedSize {
		f.Fatalf("a header has %d bytes, want %d", len(h), savedSize)
	}
	f.Add(h)
	f.Add(append(bytes.Clone(h), "volatile"...))
	f.Add(h[:50])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := x.parseSaved(b)
		if (err == nil) == (s == nil) {
			t.Fatalf("parseSaved(%x) = %v, %v", b, s, err)
		}
		if s == nil {
			return
		}
		if again, _ := binary.Append(nil, binary.BigEndian, s.savedHeader); !bytes.Equal(append(again, s.body...), b) {
			t.Errorf("parseSaved(%x) = %+v", b, s)
		}
	})
}

// TestSavedBytes checks the bytes of a saved state, which another version of this program may
// read.
func TestSavedBytes(t *testing.T) {
	x := &TPM{opt: Options{Version: tpm.V20, Library: "0.9.2"}, incoming: true, released: true, atRelease: &[32]byte{0: 0xbb, 31: 0xcc}}
	x.handover.permanent = [32]byte{0: 0xaa}
	x.sizes.Store(&bufferSizes{size: 4096})
	x.retries.Store(7)
	want := harness.Unhex("00000001 00000002 00000038 00001000 00000007 302e392e32" + strings.Repeat("00", 7) +
		"aa" + strings.Repeat("00", 31) + "bb" + strings.Repeat("00", 30) + "cc")
	if got := x.encodeHeader(); !bytes.Equal(got, want) {
		t.Errorf("header\n%x, want\n%x", got, want)
	}
}

// savedStates is a Handover in memory.
type savedStates struct {
	cells handover.Cells
	all   [][]byte // the newest first
}

func (c *savedStates) Cells() *handover.Cells { return &c.cells }
func (c *savedStates) Slots() [2][]byte       { return [2][]byte{} }
func (c *savedStates) Saved() [][]byte        { return c.all }

func (c *savedStates) Save(parts ...[]byte) error {
	c.all = append([][]byte{bytes.Join(parts, nil)}, c.all[:min(len(c.all), 1)]...)
	return nil
}

// TestResumeWaitsForTheLock checks that the volatile state survives a program that holds the
// storage lock for a moment during the restart, as swtpm state verify does.
func TestResumeWaitsForTheLock(t *testing.T) {
	c := &savedStates{}
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
