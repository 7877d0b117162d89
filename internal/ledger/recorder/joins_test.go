package recorder

import (
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// TestJoinsAreBounded checks that a guest whose measurements cannot be recorded does not make
// the file grow, and that the values at the end are in it.
func TestJoinsAreBounded(t *testing.T) {
	b := newBench(t, 16)
	b.start()
	other := values()
	for i := range 500 {
		other[0].Values[7] = append([]byte(nil), other[0].Values[7]...)
		other[0].Values[7][0], other[0].Values[7][1] = byte(i), byte(i>>8)+1
		b.put(other)
		b.Check()
	}
	b.end()
	boot := b.boot(t, 1)
	if len(boot.Records) > maxJoins+2*maxSummaries {
		t.Errorf("%d records", len(boot.Records))
	}
	s, joined, err := boot.Replay(nil)
	if err != nil || !joined {
		t.Fatal(joined, err)
	}
	var want ledger.State
	want.Set(other)
	if err := s.Check(want.Banks()); err != nil {
		t.Error(err)
	}
}
