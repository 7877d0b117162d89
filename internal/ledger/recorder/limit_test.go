package recorder

import (
	"bytes"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// written returns the file of boot 1 as it is now, as after a kill of the process.
func (b *bench) written(t *testing.T) (boot *ledger.Boot, right bool) {
	t.Helper()
	b.Wait(time.Minute)
	boot = b.boot(t, 1)
	s, joined, err := boot.Replay(nil)
	if err != nil || joined {
		t.Fatal(joined, err)
	}
	return boot, s.Check(b.state.Banks()) == nil
}

// TestLimitIsMarked checks that a file whose replay differs from the TPM says so at each moment, and that
// a summary gives the values of a TPM that runs.
func TestLimitIsMarked(t *testing.T) {
	b := newBench(t, 16)
	b.start()
	one := func() { b.Take(tapped(t, extended, fine)) }
	for i := range measurements - 2 {
		one()
		if i%64 == 0 {
			b.Wait(time.Minute)
		}
	}
	if boot, right := b.written(t); !right || b.SummaryWait() != 0 || len(boot.Records) != measurements {
		t.Fatalf("at the limit: right %t, %d records, wait %v", right, len(boot.Records), b.SummaryWait())
	}
	for n := range maxTimed {
		one()
		one()
		boot, right := b.written(t)
		if right || !boot.Incomplete(0) {
			t.Fatalf("after the limit, %d: right %t, incomplete %t", n, right, boot.Incomplete(0))
		}
		if wait := b.SummaryWait(); wait != time.Second<<n {
			t.Fatalf("wait %v the %dth time", wait, n)
		}
		b.Summarize()
		boot, right = b.written(t)
		if !right || boot.Incomplete(0) {
			t.Fatalf("after summary %d: right %t, incomplete %t", n, right, boot.Incomplete(0))
		}
	}
	one()
	b.Summarize()
	boot, right := b.written(t)
	if right || !boot.Incomplete(0) || b.SummaryWait() != 0 {
		t.Errorf("after all summaries: right %t, incomplete %t, wait %v", right, boot.Incomplete(0), b.SummaryWait())
	}
	b.end()
	boot, right = b.written(t)
	missing := uint64(0)
	for _, r := range boot.Records {
		if r.Kind == ledger.KindOverflow {
			o, err := r.Overflow()
			if err != nil {
				t.Fatal(err)
			}
			missing += o.Records
		}
	}
	if !right || boot.Incomplete(0) || missing != 2*maxTimed+1 {
		t.Errorf("at the end: right %t, incomplete %t, %d records are missing", right, boot.Incomplete(0), missing)
	}
}

// TestFullRingIsMarked checks that the file says so if the disk did not answer, and that neither the mark
// nor measurements after the limit allocate.
func TestFullRingIsMarked(t *testing.T) {
	b := newBench(t, 16)
	b.ready = false
	b.start()
	raw := tapped(t, extended, fine)
	entry := bytes.Clone(raw)
	if n := testing.AllocsPerRun(1000, func() { // the ring has space for a part of them
		copy(raw, entry)
		b.Take(raw)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	b.Ready()
	if boot, right := b.written(t); right || !boot.Incomplete(0) {
		t.Errorf("right %t, incomplete %t", right, boot.Incomplete(0))
	}
	b.end()
	if boot, right := b.written(t); !right || boot.Incomplete(0) {
		t.Errorf("at the end: right %t, incomplete %t", right, boot.Incomplete(0))
	}
}

// TestFormerLimit checks that a full file of a former version, which has no mark, is incomplete until it ends.
func TestFormerLimit(t *testing.T) {
	b := &ledger.Boot{}
	for range measurements {
		b.Records = append(b.Records, ledger.Record{Kind: ledger.KindReset, Body: make([]byte, 4)})
	}
	if !b.Incomplete(0) || b.Incomplete(measurements-1) {
		t.Errorf("%t, %t before the limit", b.Incomplete(0), b.Incomplete(measurements-1))
	}
	b.Records = append(b.Records, ledger.Record{Kind: ledger.KindEnd, Body: []byte{1}})
	if b.Incomplete(0) {
		t.Error("incomplete, but it has ended")
	}
}
