package linear

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestPlaces checks where items go: into pages of their own, the lowest that are
// free, with sections that close up.
func TestPlaces(t *testing.T) {
	s := simOn(nil, false)
	f := fileOn(s)
	for i, c := range []struct {
		step
		want [2]entry
		size int
	}{
		{step{permall, 1315}, [2]entry{{4096, 1315, 2048}}, 6144},
		{step{permall, 1315}, [2]entry{{8192, 1315, 2048}}, 10240},
		{step{permall, 1315}, [2]entry{{4096, 1315, 2048}}, 10240},
		{step{volstate, 8986}, [2]entry{{4096, 1315, 4096}, {8192, 8986, 16384}}, 24576},
		{step{permall, 4409}, [2]entry{{20480, 4409, 8192}, {8192, 8986, 12288}}, 28672},
		{step{permall, 2048}, [2]entry{{4096, 2048, 4096}, {8192, 8986, 12288}}, 28672},
		{step{volstate, 0}, [2]entry{{4096, 2048, 4096}}, 28672},
		{step{permall, nv.MaxItem}, [2]entry{{8192, nv.MaxItem, 2 << 20}}, 8192 + 2<<20},
	} {
		if err := c.do(f, i); err != nil {
			t.Fatal(err)
		}
		h, err := parseHeader(s.memory[:headerSize], int64(len(s.memory)))
		got := [2]entry{h.Entries[0], h.Entries[1]}
		if err != nil || got != c.want || len(s.memory) != c.size {
			t.Errorf("step %d: %v in %d bytes, %v, want %v in %d", i, got, len(s.memory), err, c.want, c.size)
		}
	}
}

// TestNoGrowth checks that a file that is written for ever does not grow for ever.
func TestNoGrowth(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	s := simOn(nil, false)
	f := fileOn(s)
	for i := range 2000 {
		step := step{permall, 1000 + rnd.IntN(5000)}
		switch rnd.IntN(4) {
		case 0:
			step = volatileStep(rnd.IntN(10000))
		case 1:
			step.name = "tpm2-00.savestate"
		}
		if err := step.do(f, i); err != nil && step.n > 0 {
			t.Fatal(err)
		}
		s.calls, s.disk, s.pending = nil, nil, nil
	}
	if len(s.memory) > 96<<10 {
		t.Errorf("the file has %d bytes after 2000 stores of at most 10000 in three items", len(s.memory))
	}
}

func volatileStep(n int) step {
	if n < 1000 {
		n = 0
	}
	return step{volstate, n}
}

// TestSmallDevice checks devices of all sizes: an item that does not fit is refused with the
// number of bytes that it needs, and changes nothing; an item that fits next to the old one, in
// any pieces, is stored.
func TestSmallDevice(t *testing.T) {
	const a, b = 1315, 2000
	for size := headerSize; size < 9000; size += 97 {
		s := simOn(make([]byte, size), true)
		f := fileOn(s)
		fits := func(n int) bool { return headerSize+n <= size }
		first, second, third := step{permall, a}, step{volstate, b}, step{permall, a}
		check := func(i int, st step, need int, was state) state {
			t.Helper()
			err := st.do(f, i)
			switch {
			case fits(need) && err != nil:
				t.Errorf("%d bytes on the device: step %d: %v", size, i, err)
			case err != nil && (!errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "next to the existing items")):
				t.Errorf("%d bytes on the device: step %d: %v, want no space", size, i, err)
			case err == nil:
				was = was.with(st, i)
			}
			if got, err := load(fileOn(s)); err != nil || !got.equal(was) {
				t.Errorf("%d bytes on the device: step %d: %v, %v, want %v", size, i, got, err, was)
			}
			return was
		}
		was := check(0, first, a, state{})
		was = check(1, second, a+b, was)
		if len(was) == 2 {
			check(2, third, a+b+a, was)
		}
	}
}

// TestGather checks that an item is moved if no free piece is large enough for a new one, and that
// a store that would still not fit fails.
func TestGather(t *testing.T) {
	const size = headerSize + 4000 + 1000 + 5000
	h := newHeader()
	h.Entries[0] = entry{headerSize + 3000, 4000, 4000} // free: 3000 before, 3000 after
	image := append(h.append(nil), make([]byte, size-headerSize)...)
	old := step{permall, 4000}.blob(0)
	copy(image[h.Entries[0].Offset:], old)
	s := simOn(image, true)
	f := fileOn(s)
	if err := f.Store(volstate, make([]byte, 5000)); err == nil {
		t.Error("5000 bytes beside an item that cannot be moved out of the way are stored")
	}
	h.Entries[0] = entry{headerSize + 4000, 1000, 1000}
	image = append(h.append(nil), make([]byte, size-headerSize)...)
	copy(image[h.Entries[0].Offset:], old[:1000])
	s = simOn(image, true)
	f = fileOn(s)
	want := bytes.Repeat([]byte("v"), 9000)
	if err := f.Store(volstate, want); err != nil {
		t.Errorf("9000 bytes beside one item of 1000 in %d: %v", size, err)
	}
	if got, err := load(fileOn(s)); err != nil || got[volstate] != string(want) || got[permall] != string(old[:1000]) {
		t.Errorf("then %v, %v", got, err)
	}
}

// TestApplyWipes checks that nothing is left of what Apply has replaced, in no
// place that it ever had.
func TestApplyWipes(t *testing.T) {
	s := simOn(make([]byte, 64<<10), true)
	f := fileOn(s)
	secret := step{permall, 3000}
	for i := range 3 {
		if err := secret.do(f, i); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Contains(s.disk, []byte("step  1 of")) {
		t.Fatal("the state before the last is not there: the test shows nothing")
	}
	if err := f.Apply([]nv.Change{{Name: permall, Blob: []byte("sealed")}, {Name: volstate, Blob: []byte("sealed too")}}); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(s.disk, []byte("of tpm2")) {
		t.Error("the replaced state is still on the disk")
	}
	if got, err := load(f); err != nil || got[permall] != "sealed" || got[volstate] != "sealed too" {
		t.Errorf("%v, %v", got, err)
	}
}

// TestForeignLayout checks stores and deletions with every possible layout of a file.
func TestForeignLayout(t *testing.T) {
	for _, h := range []header{
		{Entries: [entries]entry{{192, 1315, 1315}, {1507, 8986, 8986}}},
		{Entries: [entries]entry{{20000, 1315, 2048}, {192, 8986, 16384}}},
		{Entries: [entries]entry{{5000, 1315, 2048}, {10000, 8986, 16384}}}, // a gap
		{Entries: [entries]entry{{192, 1315, 2048}, {}, {3000, 400, 512}, {4000, 500, 512}, 14: {30000, 1, 1}}},
	} {
		h.Magic, h.Version, h.Size, h.Padding = magic, version, headerSize, 7
		s := simOn(append(h.append(nil), make([]byte, 32<<10)...), false)
		for _, e := range h.Entries {
			copy(s.memory[e.Offset:], bytes.Repeat([]byte("x"), int(e.Length)))
		}
		copy(s.memory, h.append(nil))
		f := fileOn(s)
		was, err := load(f)
		if err != nil {
			t.Fatal(err)
		}
		others := h
		for i, step := range steps {
			if step.n == 0 && was[step.name] == "" {
				continue
			}
			if err := step.do(f, i); err != nil {
				t.Fatal(err)
			}
			was = was.with(step, i)
			if got, err := load(f); err != nil || !got.equal(was) {
				t.Errorf("%v, %v, want %v", got, err, was)
			}
			h, err := parseHeader(s.memory[:headerSize], int64(len(s.memory)))
			if err != nil || h.Padding != 7 {
				t.Errorf("%+v, %v", h, err)
			}
			closed(t, h)
			for n := 2; n < entries; n++ {
				if h.Entries[n].Offset != others.Entries[n].Offset || h.Entries[n].Length != others.Entries[n].Length {
					t.Errorf("entry %d is %+v, was %+v", n, h.Entries[n], others.Entries[n])
				}
			}
		}
	}
}
