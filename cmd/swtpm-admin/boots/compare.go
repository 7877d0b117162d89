package boots

import "slices"

// changeKind is the kind of a change.
type changeKind string

// The kinds.
const (
	kindChanged changeKind = "changed"
	kindAdded   changeKind = "added"
	kindRemoved changeKind = "removed"
)

// change is a difference between the measurements of two boots in one PCR.
type change struct {
	Kind     changeKind
	Index    uint32
	Position int          // in the newer boot, or in the older one if it was removed; from 1
	Old      *measurement // nil if it was added
	New      *measurement // nil if it was removed
	Tail     bool         // the other boot has no measurements after this position
	More     int          // changes in the same index that firstChanges left out
}

// compare returns the differences of two boots in all PCRs and NV indexes.
func compare(a, b *Boot) []change {
	indexes := append(a.indexes(), b.indexes()...)
	slices.Sort(indexes)
	var all []change
	for _, index := range slices.Compact(indexes) {
		all = append(all, compareSequences(a.sequence(index, 0), b.sequence(index, 0))...)
	}
	return all
}

// firstChanges returns the first change of each index, for at most mostIndexes, and the number of the other indexes.
// The changes are in the order of their indexes, so that PCRs come before NV indexes.
func firstChanges(all []change) (some []change, more int) {
	for i, c := range all {
		switch {
		case i == 0 || all[i-1].Index != c.Index:
			some = append(some, c)
		default:
			some[len(some)-1].More++
		}
	}
	most := min(len(some), mostIndexes)
	return some[:most], len(some) - most
}

// maxTable bounds the work of a comparison: the product of the lengths.
const maxTable = 4 << 20

// compareSequences returns the differences of two sequences of one PCR, with as few changes
// as possible.
func compareSequences(a, b []*measurement) []change {
	same := 0
	for same < len(a) && same < len(b) && a[same].same(b[same]) {
		same++
	}
	a, b = a[same:], b[same:]
	end := 0
	for end < len(a) && end < len(b) && a[len(a)-1-end].same(b[len(b)-1-end]) {
		end++
	}
	tail := end == 0 && (len(a) == 0 || len(b) == 0)
	all := pair(align(a[:len(a)-end], b[:len(b)-end]))
	for i := range all {
		all[i].Tail = tail
	}
	return all
}

// step is an old and a new measurement; a nil one has no counterpart.
type step struct{ old, new *measurement }

// align returns the steps from a to b by their longest common subsequence, without the
// measurements that are the same. It treats sequences that are too long as if they had no common
// measurement.
func align(a, b []*measurement) []step {
	var steps []step
	long := len(a)*len(b) > maxTable
	var table [][]int32
	if !long {
		table = lcs(a, b)
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i == len(a):
			steps = append(steps, step{nil, b[j]})
			j++
		case j == len(b) || long:
			steps = append(steps, step{a[i], nil})
			i++
		case a[i].same(b[j]):
			steps = append(steps, step{}) // a barrier for pair
			i, j = i+1, j+1
		case table[i+1][j] >= table[i][j+1]:
			steps = append(steps, step{a[i], nil})
			i++
		default:
			steps = append(steps, step{nil, b[j]})
			j++
		}
	}
	return steps
}

// lcs returns the lengths of the longest common subsequences of all tails.
func lcs(a, b []*measurement) [][]int32 {
	table := make([][]int32, len(a)+1)
	for i := range table {
		table[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i].same(b[j]) {
				table[i][j] = table[i+1][j+1] + 1
			} else {
				table[i][j] = max(table[i+1][j], table[i][j+1])
			}
		}
	}
	return table
}

// pair makes changes of steps: between two measurements that both boots have, the first
// that was removed and the first that was added are one change.
func pair(steps []step) []change {
	var all []change
	var olds, news []*measurement
	flush := func() {
		for len(olds) > 0 || len(news) > 0 {
			var c change
			if len(news) > 0 {
				c.Kind, c.New, c.Index, c.Position = kindAdded, news[0], news[0].Index, news[0].Position
				news = news[1:]
			}
			if len(olds) > 0 {
				if c.Old = olds[0]; c.New != nil {
					c.Kind = kindChanged
				} else {
					c.Kind, c.Index, c.Position = kindRemoved, c.Old.Index, c.Old.Position
				}
				olds = olds[1:]
			}
			all = append(all, c)
		}
	}
	for _, s := range steps {
		switch {
		case s.old != nil:
			olds = append(olds, s.old)
		case s.new != nil:
			news = append(news, s.new)
		default:
			flush()
		}
	}
	flush()
	return all
}
