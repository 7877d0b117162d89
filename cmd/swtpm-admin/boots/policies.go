package boots

import "github.com/swtpm-go/swtpm/internal/ledger"

// policies numbers policies in the order in which they were first seen. Uses with the same PCRs and
// the same object belong to one policy. A failure of PolicyPCR itself names no object: it belongs to
// the first policy over the same PCRs. A guest determines how many policies there are, so the time
// of find and add does not depend on their number.
type policies struct {
	selections map[string]*selection
	n          int
}

// selection is all policies over the same PCRs. Only the first one can lack an object, because a use
// without an object is always a use of the first one.
type selection struct {
	first  int
	object [8]byte // of the last use of the first one; zero if it named none
	others map[[8]byte]int
}

// find returns the number of a policy that was added.
func (k *policies) find(p ledger.Policy) (i int, ok bool) {
	s := k.selections[selectionKey(p)]
	if s == nil {
		return 0, false
	}
	var none [8]byte
	if p.Object == none || s.object == none || s.object == p.Object {
		return s.first, true
	}
	i, ok = s.others[p.Object]
	return i, ok
}

// add returns the number of a policy, which is new if it equals the count of the policies before.
func (k *policies) add(p ledger.Policy) int {
	i, ok := k.find(p)
	if !ok {
		i = k.n
		k.n++
	}
	key := selectionKey(p)
	switch s := k.selections[key]; {
	case s == nil:
		if k.selections == nil {
			k.selections = map[string]*selection{}
		}
		k.selections[key] = &selection{first: i, object: p.Object, others: map[[8]byte]int{}}
	case i == s.first:
		s.object = p.Object
	default:
		s.others[p.Object] = i
	}
	return i
}

func selectionKey(p ledger.Policy) string { return string(ledger.AppendSelections(nil, p.Banks)) }
