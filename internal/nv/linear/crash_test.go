package linear

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// step is one change: an item gets a blob of n bytes, or goes if n is 0. Two
// names are of several items at once.
type step struct {
	name string
	n    int
}

const (
	both = "both" // each gets a blob
	one  = "one"  // the permanent state gets a blob, the volatile one goes
)

// steps let items grow and shrink past each other, come and go.
var steps = []step{
	{permall, 1315}, {permall, 1320}, {volstate, 8986}, {permall, 4409}, {permall, 4409}, {volstate, 9000},
	{volstate, 0}, {permall, 1315}, {permall, 9000}, {volstate, 300}, {permall, 5000}, {volstate, 0}, {permall, 4409},
	{both, 2000}, {both, 5000}, {one, 4409}, {both, 1000},
}

// blob returns the content that step i stores.
func (s step) blob(i int) []byte {
	b := bytes.Repeat([]byte(fmt.Sprintf("step %2d of %s. ", i, s.name)), s.n/10+1)
	return b[:s.n]
}

func (s step) do(f *File, i int) error {
	switch {
	case s.name == both:
		return f.Apply([]nv.Change{{Name: permall, Blob: s.blob(i)}, {Name: volstate, Blob: s.blob(i)}})
	case s.name == one:
		return f.Apply([]nv.Change{{Name: permall, Blob: s.blob(i)}, {Name: volstate}})
	case s.n == 0:
		return f.Delete(s.name)
	}
	return f.Store(s.name, s.blob(i))
}

// state is what the items are.
type state map[string]string

func (s state) with(step step, i int) state {
	next := state{}
	for k, v := range s {
		next[k] = v
	}
	switch step.name {
	case both:
		next[permall], next[volstate] = string(step.blob(i)), string(step.blob(i))
		return next
	case one:
		delete(next, volstate)
		next[permall] = string(step.blob(i))
		return next
	}
	delete(next, step.name)
	if step.n > 0 {
		next[step.name] = string(step.blob(i))
	}
	return next
}

// load reads all items.
func load(f *File) (state, error) {
	s := state{}
	for _, name := range []string{permall, volstate} {
		b, err := f.Load(name)
		switch {
		case err == nil:
			s[name] = string(b)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return s, nil
}

func (s state) equal(o state) bool {
	return len(s) == len(o) && s[permall] == o[permall] && s[volstate] == o[volstate]
}

func (s state) String() string {
	return fmt.Sprintf("permanent %d %.20q, volatile %d %.20q", len(s[permall]), s[permall], len(s[volstate]), s[volstate])
}

// disks are what a TPM is begun on.
var disks = map[string]struct {
	isDevice bool
	size     int
}{
	"no file": {false, 0}, "file of zeros": {false, 48 << 10}, "device": {true, 64 << 10},
	"full device": {true, 27500},
}

// TestPowerCut cuts the power before each call of all steps, in each way: the complete state of
// before or after the step must load, and the next store must work.
func TestPowerCut(t *testing.T) {
	for name, d := range disks {
		t.Run(name, func(t *testing.T) {
			lost, images := losses(t, simOn(make([]byte, d.size), d.isDevice), nil)
			for _, l := range lost {
				t.Error(l)
			}
			if images < 500 {
				t.Errorf("%d images only", images)
			}
			t.Logf("%d images", images)
		})
	}
	// To show that the model finds losses: without the first sync of a step, or
	// without its last.
	for _, skip := range []int{1, 2} {
		s := simOn(nil, false)
		if lost, images := losses(t, s, &lazy{sim: s, skip: skip}); len(lost) == 0 {
			t.Errorf("no loss in %d images without sync %d: the model sees nothing", images, skip)
		}
	}
}

// lazy leaves out one sync of each step.
type lazy struct {
	*sim
	skip, n int
}

func (l *lazy) Sync() error {
	l.n++
	if l.n == l.skip {
		return nil
	}
	return l.sim.Sync()
}

// losses goes through the steps and returns a line for each image that is not
// the state before the step or after it.
func losses(t *testing.T, s *sim, skipping *lazy) (lost []string, images int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	var st storage = s
	if skipping != nil {
		st = skipping
	}
	f := fileOn(st)
	was := state{}
	if _, err := load(f); err != nil {
		t.Fatal(err)
	}
	for i, step := range steps {
		after := was.with(step, i)
		check := func(allowed ...state) {
			for _, image := range s.images(rnd) {
				images++
				if err := checkImage(image, s.isDevice, allowed); err != nil {
					lost = append(lost, fmt.Sprintf("step %d, before call %d, %s: %v", i, len(s.calls), s.calls[len(s.calls)-1], err))
				}
			}
		}
		s.before = func() {
			if last := s.calls[len(s.calls)-1]; last[0] != 'r' {
				check(was, after)
			}
		}
		if skipping != nil {
			skipping.n = 0
		}
		if err := step.do(f, i); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		s.before = nil
		check(after) // acknowledged
		was = after
	}
	return lost, images
}

// checkImage starts on what a power cut has left.
func checkImage(image []byte, isDevice bool, allowed []state) error {
	f := fileOn(simOn(image, isDevice))
	got, err := load(f)
	if err != nil {
		return err
	}
	ok := false
	for _, a := range allowed {
		ok = ok || got.equal(a)
	}
	if !ok {
		return fmt.Errorf("%v, want one of %v", got, allowed)
	}
	if err := f.Store(permall, []byte("next")); err != nil {
		return err
	}
	got[permall] = "next"
	if again, err := load(fileOn(f.s)); err != nil || !again.equal(got) {
		return fmt.Errorf("%v, %w after a store, want %v", again, err, got)
	}
	return nil
}

// TestFaults makes each call of all steps fail, and kills the process at it. An error must
// never be acknowledged; the same process and the next one must load the old or the
// new state. The loaded state must survive a power cut, also after a failed sync, because the
// kernel then forgets what it has not written.
func TestFaults(t *testing.T) {
	for name, d := range disks {
		t.Run(name, func(t *testing.T) {
			faults := 0
			for _, dies := range []bool{false, true} {
				for nth := 1; ; nth++ {
					s := simOn(make([]byte, d.size), d.isDevice)
					s.nth, s.dies = nth, dies
					if !fault(t, s) {
						break
					}
					faults++
				}
			}
			if faults < 100 {
				t.Errorf("%d faults only", faults)
			}
		})
	}
}

// fault goes through the steps with the fault that is in s; it returns false if
// that does not come.
func fault(t *testing.T, s *sim) bool {
	f := fileOn(s)
	was := state{}
	for i, step := range steps {
		after := was.with(step, i)
		err := step.do(f, i)
		if err == nil {
			was = after
			if len(s.calls) >= s.nth {
				t.Errorf("%s fails, and step %d is acknowledged", s.calls[s.nth-1], i)
				return true
			}
			continue
		}
		if !errors.Is(err, errFault) {
			t.Fatalf("step %d: %v", i, err)
		}
		what := fmt.Sprintf("step %d, dies %v, call %d, %s", i, s.dies, s.nth, s.calls[s.nth-1])
		s.nth = 0
		if s.dies {
			f = fileOn(s)
		}
		got, err := load(f)
		if err != nil || !got.equal(was) && !got.equal(after) {
			t.Errorf("%s: then %v, %v, want %v or %v", what, got, err, was, after)
			return true
		}
		rnd := rand.New(rand.NewPCG(3, uint64(i)))
		for _, image := range s.images(rnd) {
			if err := checkImage(image, s.isDevice, []state{got}); err != nil {
				t.Errorf("%s: power cut after the next start: %v", what, err)
			}
		}
		if err := f.Store(permall, []byte("next")); err != nil {
			t.Errorf("%s: the next store: %v", what, err)
		}
		got[permall] = "next"
		for _, image := range s.images(rnd) {
			if err := checkImage(image, s.isDevice, []state{got}); err != nil {
				t.Errorf("%s: power cut after the next store: %v", what, err)
			}
		}
		return true
	}
	return false
}

// TestFaultWithoutLoad is a failed sync after which the same process stores again
// at once, without reading the state.
func TestFaultWithoutLoad(t *testing.T) {
	for nth := 1; ; nth++ {
		s := simOn(make([]byte, 64<<10), true)
		f := fileOn(s)
		s.nth = nth
		was, failed, checked := state{}, false, 0
		var maybe state // what the failed step would have made
		for i, step := range steps {
			after := was.with(step, i)
			if step.n == 0 && was[step.name] == "" {
				continue // the step before it failed
			}
			before := []state{was, after}
			if maybe != nil {
				before = append(before, maybe, maybe.with(step, i))
			}
			s.before = func() {
				if failed && checked < 5 && s.calls[len(s.calls)-1][0] != 'r' {
					checked++
					for _, image := range s.images(rand.New(rand.NewPCG(5, 6))) {
						if err := checkImage(image, true, before); err != nil {
							t.Errorf("call %d fails, step %d: %v", nth, i, err)
						}
					}
				}
			}
			err := step.do(f, i)
			s.before = nil
			switch {
			case err == nil:
				was, maybe = after, nil
				if got, err := load(fileOn(simOn(s.memory, true))); err == nil {
					was = got
				}
			case failed:
				t.Errorf("call %d fails, and then step %d: %v", nth, i, err)
			default:
				failed, maybe = true, after
			}
		}
		if !failed {
			return
		}
	}
}
