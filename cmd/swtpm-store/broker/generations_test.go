package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// TestNumbersBeginAnew checks that the generations of a TPM that was imported over one with
// higher numbers stay, and that the other TPM's are removed: the last ones that were written stay.
// A generation that is stored is never replaced: a change with its number is stored without a copy.
func TestNumbersBeginAnew(t *testing.T) {
	d := driver.NewMemory()
	a := newHost(t, d, "a") // of which three generations stay
	c := a.client()
	acquired(t, c)
	for _, x := range []struct {
		number uint64
		want   []uint64
	}{
		{50, []uint64{50}}, {51, []uint64{50, 51}}, {52, []uint64{50, 51, 52}},
		{1, []uint64{51, 52, 1}}, {2, []uint64{52, 1, 2}},
		{52, []uint64{52, 1, 2}}, {53, []uint64{1, 2, 53}},
	} {
		put(t, c, x.number, fmt.Sprint(len(x.want), " as ", x.number))
		if all, err := c.Generations(); err != nil || !slices.Equal(all, x.want) {
			t.Errorf("after generation %d there are %v, %v, want %v", x.number, all, err, x.want)
		}
		wantItem(t, c, fmt.Sprint(len(x.want), " as ", x.number))
		if g, err := c.Generation(52); x.number == 52 && slices.Contains(x.want, 1) && (err != nil || string(g[0].Blob) != "3 as 52") {
			t.Errorf("generation 52 is %q, %v", g, err)
		}
		if x.number == 1 { // another process of the broker reads the order from the store
			if err := c.Release([32]byte{}); err != nil {
				t.Fatal(err)
			}
			a.stop()
			a.start()
			c = a.client()
			acquired(t, c)
		}
	}
}

// TestKeepLess checks that a configuration that keeps fewer generations than are stored removes a limited
// number of them with each write: the store takes a limited number of operations in one.
func TestKeepLess(t *testing.T) {
	d := driver.NewMemory()
	a := newHost(t, d, "a")
	a.stop()
	const many = maxExpire + 40
	a.o.Keep = many
	a.start()
	c := a.client()
	acquired(t, c)
	for n := range uint64(many) {
		put(t, c, n+1, "x")
	}
	if err := c.Release([32]byte{}); err != nil {
		t.Fatal(err)
	}
	a.stop()
	a.o.Keep = 3
	a.start()
	c = a.client()
	acquired(t, c)
	for n, want := range []int{many + 1 - maxExpire, 3, 3} {
		put(t, c, uint64(many+1+n), "x")
		if all, err := c.Generations(); err != nil || len(all) != want || all[len(all)-1] != uint64(many+1+n) {
			t.Errorf("after write %d the generations %v are stored, %v, want %d", n+1, all, err, want)
		}
	}
}
