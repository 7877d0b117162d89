package store_test

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// TestCheck checks that the checker accepts the possible histories and no other, in a short time
// also with many increments without a response.
func TestCheck(t *testing.T) {
	inc, get, lost := porcupine.Operation{Input: opIncrement}, porcupine.Operation{Input: opRead}, true
	at := func(o porcupine.Operation, instance int, call, ret int64, out uint64, open bool) answer {
		o.Call, o.Return, o.Output = call, ret, out
		return answer{o, instance, open}
	}
	many := func(reads ...uint64) (all []answer) {
		for n := range int64(60) {
			all = append(all, at(inc, 1, 10*n, 10*n+5, 0, lost))
		}
		for n, v := range reads {
			all = append(all, at(get, 1, 1000+int64(n), 1000+int64(n), v, false))
		}
		return all
	}
	for _, x := range []struct {
		name string
		all  []answer
		last uint64
		ok   bool
	}{
		{"acknowledged", []answer{at(inc, 1, 1, 2, 0, false), at(get, 1, 3, 4, 6, false)}, 6, true},
		{"lost write", []answer{at(inc, 1, 1, 2, 0, false), at(get, 1, 3, 4, 5, false)}, 5, false},
		{"lost at the end", []answer{at(inc, 1, 1, 2, 0, false)}, 5, false},
		{"without a response, not done", []answer{at(inc, 1, 1, 2, 0, lost), at(get, 1, 3, 4, 5, false)}, 5, true},
		{"without a response, done later", []answer{at(inc, 1, 1, 2, 0, lost), at(get, 1, 3, 4, 5, false)}, 6, true},
		{"without a response, undone", []answer{at(inc, 1, 1, 2, 0, lost), at(get, 1, 3, 4, 6, false)}, 5, false},
		{"stale read", []answer{at(inc, 2, 1, 2, 0, false), at(get, 1, 3, 4, 5, false)}, 6, false},
		{"two copies", []answer{at(get, 2, 1, 2, 5, false), at(get, 1, 3, 4, 5, false)}, 5, false},
		{"a copy and a later one", []answer{at(get, 1, 1, 3, 5, false), at(get, 2, 2, 4, 5, false)}, 5, true},
		{"many without a response", many(5, 17, 30, 30), 40, true},
		{"many without a response, undone", many(5, 17, 30, 29), 40, false},
	} {
		h := history{all: x.all}
		begin := time.Now()
		if _, err := h.check(5, x.last); (err == nil) != x.ok {
			t.Errorf("%s: %v, want success %v", x.name, err, x.ok)
		}
		if took := time.Since(begin); took > 30*time.Second {
			t.Errorf("%s took %v", x.name, took)
		}
	}
}
