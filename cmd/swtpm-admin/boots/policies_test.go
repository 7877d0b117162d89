package boots

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// TestPolicies compares the numbers of policies with a search through all policies, for uses
// with few objects, so that many are the same and many name no object.
func TestPolicies(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	unnamed := 0
	for range 2000 {
		var k policies
		var last []ledger.Policy // the last use of each policy
		for range 40 {
			p := ledger.Policy{Banks: []ledger.Bank{{Alg: ledger.SHA256, Mask: 1 << random.IntN(2)}}}
			if random.IntN(8) == 0 {
				p.Banks = nil
			}
			p.Object[0] = byte(random.IntN(4))
			want := slices.IndexFunc(last, func(l ledger.Policy) bool { return samePolicy(l, p) })
			if i, ok := k.find(p); ok != (want >= 0) || ok && i != want {
				t.Fatalf("%+v after %+v: found %d, %v; want %d", p, last, i, ok, want)
			}
			if random.IntN(3) == 0 {
				continue // found, but not added
			}
			if want < 0 {
				want = len(last)
				last = append(last, p)
			}
			if i := k.add(p); i != want {
				t.Fatalf("%+v after %+v: added as %d, want %d", p, last, i, want)
			}
			last[want] = p
			if p.Object == [8]byte{} {
				unnamed++
			}
		}
	}
	if unnamed == 0 {
		t.Error("no use without an object")
	}
}

// samePolicy reports whether two uses are of one policy, without an index.
func samePolicy(x, y ledger.Policy) bool {
	var none [8]byte
	if x.Object == none || y.Object == none {
		x.Object, y.Object = none, none
	}
	return x.SamePolicy(y)
}

// TestManyPolicies checks that a guest may use a new object in each of a million policies. A
// search through all of them for each one would not end within the limit of go test.
func TestManyPolicies(t *testing.T) {
	const n = 1_000_000
	var k policies
	for i := range n {
		p := ledger.Policy{Banks: []ledger.Bank{{Alg: ledger.SHA256, Mask: 0x80}}}
		binary.BigEndian.PutUint64(p.Object[:], uint64(i)+1)
		if got := k.add(p); got != i {
			t.Fatalf("policy %d has number %d", i, got)
		}
	}
}
