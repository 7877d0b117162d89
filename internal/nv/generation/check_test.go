package generation_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// disk is the items of a state, and what they were at each moment.
type disk struct {
	chain   generation.Chain
	items   map[generation.Item]generation.Found
	history []map[generation.Item]generation.Found
	file    generation.Mark   // as it was written last
	marks   []generation.Mark // the file at each moment of history
	n       int               // of payloads
}

func newDisk() *disk {
	d := &disk{items: map[generation.Item]generation.Found{}}
	d.chain.Begin(nil, 0, generation.Writer{}, false)
	d.store(generation.Permanent)
	return d
}

func (d *disk) remember() {
	was := map[generation.Item]generation.Found{}
	for i, f := range d.items {
		was[i] = f
	}
	d.history = append(d.history, was)
	d.marks = append(d.marks, d.file)
}

func (d *disk) store(i generation.Item) {
	d.n++
	sum := sha256.Sum256(fmt.Append(nil, d.chain.Identity(), d.n))
	r := d.chain.Next(i, time.Unix(int64(d.n), 0).UTC())
	d.chain.Stored(r, sum)
	d.items[i] = generation.Found{Item: i, Record: &r, Sum: sum}
	d.remember()
}

// fail is a store that has failed; unsynced says that the item is on disk all the same.
func (d *disk) fail(i generation.Item, unsynced bool) {
	d.n++
	sum := sha256.Sum256(fmt.Append(nil, d.chain.Identity(), d.n))
	r := d.chain.Next(i, time.Unix(int64(d.n), 0).UTC())
	if unsynced {
		d.items[i] = generation.Found{Item: i, Record: &r, Sum: sum}
		d.remember()
	}
}

func (d *disk) remove(i generation.Item) {
	if _, ok := d.items[i]; ok {
		delete(d.items, i)
		d.chain.Removed(i)
		d.remember()
	}
}

func (d *disk) batch() {
	var items []generation.Item
	for i := range d.items {
		items = append(items, i)
	}
	for _, r := range d.chain.Batch(items, time.Now()) {
		d.n++
		sum := sha256.Sum256(fmt.Append(nil, d.chain.Identity(), d.n))
		d.items[r.Item] = generation.Found{Item: r.Item, Record: &r, Sum: sum}
		d.chain.Stored(r, sum)
	}
	d.chain.Loaded(d.items[generation.Permanent])
	d.remember()
}

// restart is another process that reads the state.
func (d *disk) restart(t *testing.T) {
	t.Helper()
	if err := generation.Check(list(d.items), &d.file); err != nil {
		t.Fatalf("false alarm: %v", err)
	}
	d.chain.Begin(list(d.items), d.file.Known.Max(), generation.Writer{}, false)
}

func list(items map[generation.Item]generation.Found) (all []generation.Found) {
	for _, i := range generation.Items {
		if f, ok := items[i]; ok {
			all = append(all, f)
		}
	}
	return all
}

// run makes n random changes.
func (d *disk) run(t *testing.T, r *rand.Rand, n int) {
	for range n {
		i := generation.Items[r.IntN(3)]
		switch r.IntN(10) {
		case 0:
			if i != generation.Permanent {
				d.remove(i)
			}
		case 1:
			d.restart(t)
		case 2:
			d.fail(i, r.IntN(2) == 0)
		case 3:
			d.batch()
		case 4:
			d.file.Raise(d.chain.Mark())
		default:
			d.store(i)
		}
	}
}

// TestNoFalseAlarm starts from each state that a power cut can leave of random
// histories, with each mark that can have been written by then.
func TestNoFalseAlarm(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	n := 0
	for range 200 {
		d := newDisk()
		d.run(t, r, 60)
		for i, items := range d.history {
			for _, mark := range []generation.Mark{d.marks[i], d.marks[r.IntN(i+1)]} {
				n++
				if err := generation.Check(list(items), &mark); err != nil {
					t.Fatalf("false alarm: %v", err)
				}
			}
		}
	}
	t.Logf("%d starts", n)
}

// TestDetects checks that old, mixed and foreign states are reported.
func TestDetects(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var old, mixed, foreign int
	for old+mixed+foreign < 6000 {
		d, other := newDisk(), newDisk()
		d.run(t, r, 40)
		other.run(t, r, 10)
		mark := d.chain.Mark()
		was := d.history[r.IntN(len(d.history))]

		if was[generation.Permanent].Record.Generation < mark.Known.Of(generation.Permanent) {
			old++
			if err := generation.Check(list(was), &mark); !errors.Is(err, generation.ErrOld) && !errors.Is(err, generation.ErrMixed) {
				t.Fatalf("old state: %v", err)
			}
		}
		for _, i := range generation.Items {
			is, there := d.items[i]
			before, ok := was[i]
			if ok && before.Record.Generation < mark.Known.Of(i) && (!there || before.Record != is.Record) {
				mixed++
				if err := generation.Check(replace(d.items, before), &mark); err == nil {
					t.Fatalf("%v of generation %d next to %v: no error", i, before.Record.Generation, mark.Known)
				}
			}
			if f, ok := other.items[i]; ok && len(d.items) > 1 {
				foreign++
				if err := generation.Check(replace(d.items, f), &mark); !errors.Is(err, generation.ErrForeign) {
					t.Fatalf("%v of another TPM: %v", i, err)
				}
			}
		}
	}
	t.Logf("%d old, %d mixed, %d foreign", old, mixed, foreign)
}

func replace(items map[generation.Item]generation.Found, f generation.Found) []generation.Found {
	changed := map[generation.Item]generation.Found{}
	for i, is := range items {
		changed[i] = is
	}
	changed[f.Item] = f
	return list(changed)
}

// TestWithoutMark checks that a mix is found without a mark.
func TestWithoutMark(t *testing.T) {
	d := newDisk()
	d.store(generation.Permanent)
	before := d.items[generation.Permanent]
	d.store(generation.Permanent)
	d.store(generation.Volatile)
	if err := generation.Check(replace(d.items, before), nil); !errors.Is(err, generation.ErrMixed) {
		t.Errorf("old permanent state: %v", err)
	}
	stale := d.items[generation.Volatile]
	d.remove(generation.Volatile)
	d.store(generation.Permanent)
	if err := generation.Check(replace(d.items, stale), nil); !errors.Is(err, generation.ErrMixed) {
		t.Errorf("removed volatile state: %v", err)
	}
	// Another history from the same generation on.
	fork := *d
	fork.items = map[generation.Item]generation.Found{generation.Permanent: d.items[generation.Permanent]}
	fork.chain.Begin(list(fork.items), 0, generation.Writer{}, false)
	d.store(generation.Permanent)
	d.store(generation.Volatile)
	fork.n = 1000
	fork.store(generation.Permanent)
	if err := generation.Check(replace(fork.items, d.items[generation.Volatile]), nil); !errors.Is(err, generation.ErrMixed) {
		t.Errorf("volatile state of a fork: %v", err)
	}
}

// TestUnrecorded checks that what another program has stored is not judged.
func TestUnrecorded(t *testing.T) {
	d := newDisk()
	d.store(generation.Volatile)
	mark := d.chain.Mark()
	bare := generation.Found{Item: generation.Permanent}
	if err := generation.Check(replace(d.items, bare), &mark); err != nil {
		t.Error(err)
	}
	if err := generation.Check(replace(d.items, generation.Found{Item: generation.Volatile}), &mark); err != nil {
		t.Error(err)
	}
}

// TestDeclared checks that a state that continues above a floor raises no alarm.
func TestDeclared(t *testing.T) {
	d := newDisk()
	was := list(d.items)
	d.store(generation.Permanent)
	d.store(generation.Permanent)
	mark := d.chain.Mark()
	var c generation.Chain
	c.Begin(was, mark.Known.Max(), generation.Writer{Host: "h"}, false)
	r := c.Next(generation.Permanent, time.Now())
	if r.Generation != 4 || r.Identity != mark.Identity || r.Writer.Epoch != 2 {
		t.Errorf("%+v", r)
	}
	if err := generation.Check([]generation.Found{{Item: generation.Permanent, Record: &r}}, &mark); err != nil {
		t.Error(err)
	}
}
