package broker

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// TestExplain checks that the text of a reply leaves out what its status says.
func TestExplain(t *testing.T) {
	for kind, want := range map[error]store.Status{driver.ErrUnreachable: store.StatusUnreachable, driver.ErrDamaged: store.StatusDamaged, errDenied: store.StatusDenied} {
		err := fmt.Errorf("state vm1: %w: the cause", kind)
		if s, text := (&client{}).explain(err); s != want || text != "state vm1: the cause" {
			t.Errorf("%v, %q, want %v without %q", s, text, want, kind)
		}
	}
}

// TestStoredByAnother checks that a change whose generation another program has stored is made without a
// copy, and that an error about that is not one about a store that does not answer.
func TestStoredByAnother(t *testing.T) {
	memory := driver.NewMemory()
	d := &faulty{Driver: memory}
	_, log, c, _ := damagedHost(t, d)
	store5 := func(times int) error {
		d.mu.Lock()
		d.stored = times
		d.mu.Unlock()
		_, err := c.Put(5, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("five")}}, nil)
		return err
	}
	if err := store5(1); err != nil {
		t.Fatal(err)
	}
	wantHead(t, memory, 5, "five")
	if n := log.count("another program has stored generation 5, so this host stores no copy"); n != 1 {
		t.Errorf("the log has %q", log.lines)
	}
	s, text := (&client{}).explain(driver.ErrStored)
	if s != store.StatusDamaged || text != "the generation is stored already" {
		t.Errorf("explain = %v, %q", s, text)
	}
}

// TestTooHigh checks that a generation that counting cannot reach is refused.
func TestTooHigh(t *testing.T) {
	d := driver.NewMemory()
	_, _, c, _ := damagedHost(t, d)
	for _, n := range []uint64{driver.MaxNumber + 1, math.MaxUint64} {
		_, err := c.Put(n, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("five")}}, nil)
		wantError(t, "Put", err, store.ErrInvalid)
		if want := fmt.Sprintf("generation %d, at most 4611686018427387904 is possible: the state of this client is damaged", n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Put: %v, want %q", err, want)
		}
	}
	wantHead(t, d, 4, "four")
	put(t, c, driver.MaxNumber, "highest")
}

// TestUnknownEpoch checks that the error about an owner names no epoch that is unknown.
func TestUnknownEpoch(t *testing.T) {
	d := driver.NewMemory()
	_, _, _, g := damagedHost(t, d)
	other := newHost(t, d, "b").client()
	for _, damage := range []string{"", "epoch", "no epoch"} {
		if damage != "" {
			d.Damage("vm1", damage)
		}
		_, err := other.Acquire(nil)
		wantError(t, "Acquire", err, store.ErrOwned)
		if want := fmt.Sprintf(", epoch %d; stop the TPM there", g.Epoch); strings.Contains(err.Error(), ", epoch") != (damage == "") || damage == "" && !strings.Contains(err.Error(), want) {
			t.Errorf("damage %q: %v", damage, err)
		}
	}
}
