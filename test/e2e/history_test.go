package e2e_test

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/nv/mark"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/test/harness"
)

// moment is the state of a TPM that was on the disk at some time, and the newest mark that its
// host can have had then.
type moment struct {
	found []generation.Found
	mark  generation.Mark
}

// decodeItem returns an item from the content of its file.
func decodeItem(t *testing.T, item, content string) generation.Found {
	t.Helper()
	p, record, err := seal.OpenWithRecord([]byte(content), nil)
	if err != nil {
		t.Fatalf("%s: %v", item, err)
	}
	f := nv.NewFound(item, record, sha256.Sum256(p))
	if f.Record == nil {
		t.Fatalf("%s has no record", item)
	}
	return f
}

// look returns the state in dir, after last.
func look(t *testing.T, v version, dir string, last moment) moment {
	t.Helper()
	m := moment{mark: last.mark}
	for _, i := range generation.Items {
		b, err := os.ReadFile(filepath.Join(dir, strings.Replace(v.file(), "permall", i.String(), 1)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		f := decodeItem(t, i.String(), string(b))
		m.found = append(m.found, f)
		m.mark.Raise(generation.Mark{Identity: f.Record.Identity, Known: f.Record.Known, Time: f.Record.Time})
	}
	return m
}

// randomLife runs a TPM 2.0 through n random changes and restarts, and returns all moments.
func randomLife(t *testing.T, r *rand.Rand, n int) (all []moment) {
	t.Helper()
	dir := harness.TempDir(t)
	e := start(t, setup{tpm: v20, state: dir})
	ch := e.power(t, v20)
	ch.define(t)
	number := uint64(1)
	last := moment{}
	for range n {
		c := e.control(t)
		var err error
		switch r.IntN(8) {
		case 0, 1:
			err = c.StoreVolatile()
		case 2:
			_, _, err = c.State(2, false) // removes the stored one
		case 3:
			_ = c.Close()
			if r.IntN(2) == 0 {
				e.terminate(t)
			} else {
				e.Kill(t)
			}
			e = start(t, setup{tpm: v20, state: dir})
			c = e.control(t)
			if err = c.Init(ctrl.InitDeleteVolatile); err == nil {
				ch = e.open(t, v20)
				_, _ = ch.try(ch.startup()) // a TPM with a volatile state had it
			}
		default:
			number++
			err = ch.bump(number)
		}
		_ = c.Close()
		if err != nil {
			t.Fatalf("%v; log:\n%s", err, harness.Read(t, e.log))
		}
		last = look(t, v20, dir, last)
		all = append(all, last)
	}
	e.terminate(t)
	return append(all, look(t, v20, dir, last))
}

// swap returns m with another item in place of its own one.
func swap(m moment, f generation.Found) []generation.Found {
	var all []generation.Found
	for _, is := range m.found {
		if is.Item != f.Item {
			all = append(all, is)
		}
	}
	return append(all, f)
}

// TestCopies checks that real old, mixed and exchanged states are reported, and that no moment of
// a TPM's own history is.
func TestCopies(t *testing.T) {
	t.Parallel()
	changes, copies := 40, 200
	if os.Getenv(fullVar) != "" {
		changes, copies = 150, 2000
	}
	r := rand.New(rand.NewPCG(5, 6))
	own, other := randomLife(t, r, changes), randomLife(t, r, 10)
	for i, m := range own {
		for _, mark := range []generation.Mark{m.mark, own[r.IntN(i+1)].mark} {
			if err := generation.Check(m.found, &mark); err != nil {
				t.Fatalf("moment %d: false alarm: %v", i, err)
			}
		}
	}
	var old, mixed, exchanged int
	for old+mixed+exchanged < copies {
		i := r.IntN(len(own))
		now, was := own[i], own[r.IntN(i+1)]
		if was.found[0].Record.Generation < now.mark.Known.Of(generation.Permanent) {
			old++
			if generation.Check(was.found, &now.mark) == nil {
				t.Fatal("an old state is not found")
			}
		}
		for _, f := range was.found {
			if f.Record.Generation < now.mark.Known.Of(f.Item) {
				mixed++
				if generation.Check(swap(now, f), &now.mark) == nil {
					t.Fatalf("%s of generation %d next to %d is not found", f.Item, f.Record.Generation, now.mark.Known)
				}
			}
		}
		for _, f := range other[r.IntN(len(other))].found {
			if len(swap(now, f)) > 1 {
				exchanged++
				if err := generation.Check(swap(now, f), &now.mark); !errors.Is(err, generation.ErrForeign) {
					t.Fatalf("%s of another TPM: %v", f.Item, err)
				}
			}
		}
	}
	whole := exchangedDirectories(t, own, other)
	t.Logf("%d old, %d mixed, %d exchanged states, %d exchanged directories; %d moments without a false alarm", old, mixed, exchanged, whole, len(own))
}

// exchangedDirectories checks that a whole state in the place of another TPM is found, at each
// moment of the first TPM, and that it is not in its own place and in a new one.
func exchangedDirectories(t *testing.T, own, other []moment) (exchanged int) {
	t.Helper()
	d, err := mark.Open(harness.TempDir(t))
	if err != nil {
		t.Fatal(err)
	}
	places := []string{"dir:///own", "dir:///other"}
	for i := range own {
		marks := []generation.Mark{own[i].mark, other[i%len(other)].mark}
		for n, m := range marks {
			if err := d.Move(m, places[n]); err != nil {
				t.Fatal(err)
			}
		}
		for n := range marks {
			m, err := d.Read(marks[n].Identity)
			if err != nil {
				t.Fatal(err)
			}
			exchanged++
			if err := d.Exchanged(m, places[1-n]); !errors.Is(err, generation.ErrExchanged) {
				t.Fatalf("moment %d: a state in the place of another TPM: %v", i, err)
			}
			for _, at := range []string{places[n], "dir:///new"} {
				if err := d.Exchanged(m, at); err != nil {
					t.Fatalf("moment %d: false alarm: %v", i, err)
				}
			}
		}
	}
	return exchanged
}
