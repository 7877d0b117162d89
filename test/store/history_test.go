package store_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/swtpm-go/swtpm/test/store/lab"
)

const (
	opRead = iota
	opIncrement
)

// answer is a command with its response.
type answer struct {
	porcupine.Operation
	instance int  // that answered
	open     bool // an increment without a response that says success: it may have happened
}

// history is what the clients of one TPM did.
type history struct {
	mu  sync.Mutex
	all []answer
}

// run calls f for a client, and notes what it did.
func (h *history) run(client, op int, i *lab.Instance, l transport.TPM, f func(transport.TPM) (uint64, error)) error {
	begin := time.Now().UnixNano()
	n, err := f(l)
	end := time.Now().UnixNano()
	if err != nil && op == opRead {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, answer{porcupine.Operation{ClientId: client, Input: op, Call: begin, Output: n, Return: end}, i.Number, err != nil})
	return err
}

// counts are the numbers of commands.
type counts struct{ answered, open int }

// step is the input of an operation of the model.
type step struct {
	op   int
	open int // 0, or the number of an increment without a response
}

// status is the state of the model.
type status struct {
	counter uint64
	open    int // increments without a response that have happened
}

// model returns the model of a counter that is at first. Increments without a response happen
// in the order of their calls: they are equal, so another order is never needed, and would cost
// the checker an exponential time.
func model(first uint64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return status{first, 0} },
		Step: func(state, input, output any) (bool, any) {
			s, in := state.(status), input.(step)
			switch {
			case in.op == opRead:
				return output == s.counter, s
			case in.open == 0:
				return true, status{s.counter + 1, s.open}
			}
			return in.open == s.open+1, status{s.counter + 1, in.open}
		},
	}
}

// check returns an error unless the history is linearizable, with the counter at first before
// and at last after it, and no two instances answered at the same time. An increment without
// a response may have happened at any time before last was read, or never: the checker puts
// it after that. Then check forgets the history.
func (h *history) check(first, last uint64) (counts, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.all
	h.all = nil
	slices.SortFunc(all, func(a, b answer) int { return cmp.Compare(a.Call, b.Call) })
	end := time.Now().UnixNano()
	var c counts
	var ops []porcupine.Operation
	for _, a := range all {
		in := step{op: a.Input.(int)}
		if a.open {
			c.open++
			in.open = c.open
			a.Return, a.ClientId = end+3, 1000+c.open
		} else {
			c.answered++
		}
		a.Input = in
		ops = append(ops, a.Operation)
	}
	ops = append(ops, porcupine.Operation{ClientId: 999, Input: step{op: opRead}, Call: end + 1, Return: end + 2, Output: last})
	if result := porcupine.CheckOperationsTimeout(model(first), ops, time.Minute); result != porcupine.Ok {
		return c, fmt.Errorf("%s\nnot linearizable: %s: %d operations, %d without an answer, counter from %d to %d", table(ops), result, len(ops), c.open, first, last)
	}
	return c, twice(all)
}

// twoCopies returns an error if two copies have answered until now.
func (h *history) twoCopies() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return twice(h.all)
}

// twice returns an error if an instance answered a command that was sent after a later
// instance had answered one: both have had the state.
func twice(all []answer) error {
	first := map[int]int64{} // the first answer of each instance
	for _, a := range all {
		if at, ok := first[a.instance]; !a.open && (!ok || a.Return < at) {
			first[a.instance] = a.Return
		}
	}
	for _, a := range all {
		for _, later := range slices.Sorted(maps.Keys(first)) {
			if !a.open && later > a.instance && a.Call > first[later] {
				return fmt.Errorf("two copies: process %d answered %v after process %d had answered", a.instance, time.Duration(a.Call-first[later]), later)
			}
		}
	}
	return nil
}

// table returns the operations as text.
func table(ops []porcupine.Operation) string {
	var b strings.Builder
	for _, o := range ops {
		what := "increment"
		if o.Input.(step).op == opRead {
			what = fmt.Sprint("read ", o.Output)
		}
		fmt.Fprintf(&b, "client %4d, %8.3f ms to %8.3f ms: %s\n", o.ClientId, float64(o.Call-ops[0].Call)/1e6, float64(o.Return-ops[0].Call)/1e6, what)
	}
	return b.String()
}
