package broker

import (
	"slices"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// TestNumbersBeginAnew checks that the generations of a TPM that was imported over one with
// higher numbers stay, and that the other TPM's are removed: the last ones that were written stay.
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
		{2, []uint64{52, 1, 2}}, {52, []uint64{1, 2, 52}}, {53, []uint64{2, 52, 53}},
	} {
		put(t, c, x.number, "x")
		if all, err := c.Generations(); err != nil || !slices.Equal(all, x.want) {
			t.Errorf("after generation %d there are %v, %v, want %v", x.number, all, err, x.want)
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
