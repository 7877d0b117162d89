package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// TestObserver checks that a client without a state learns who owns which of the states that it
// asks for, and can do nothing else; and that it sees others' states only as an observer.
func TestObserver(t *testing.T) {
	d := driver.NewMemory()
	a, b := newHost(t, d, "a"), newHost(t, d, "b")
	b.o.Observe = func(Credentials) bool { return true }
	b.b.o.Observe = b.o.Observe
	for name, h := range map[string]*host{"vm1": a, "vm2": b} {
		c, err := h.open(name)
		if err != nil {
			t.Fatal(err)
		}
		acquired(t, c)
		put(t, c, 7, "state of "+name)
	}
	secret := driver.Owner{Host: "c", Nonce: "n"}
	lease, err := d.Grant(t.Context(), ttl)
	if err == nil {
		_, err = d.Acquire(t.Context(), "secret", lease, secret)
	}
	if err != nil {
		t.Fatal(err)
	}

	names := []string{"vm2", "missing", "vm1", "secret", "no name"}
	for _, x := range []struct {
		h    *host
		want []string // name, owner and generation
	}{
		{a, []string{"vm1 a 7", "vm2 b 7"}},
		{b, []string{"secret c 0", "vm1 a 7", "vm2 b 7"}},
	} {
		c, err := x.h.open("")
		if err != nil {
			t.Fatal(err)
		}
		host, all, err := c.Describe(names)
		var got []string
		for _, e := range all {
			got = append(got, fmt.Sprintf("%s %s %d", e.Name, e.Owner, e.Generation))
		}
		slices.Sort(got)
		if err != nil || host != x.h.o.Host || !slices.Equal(got, x.want) {
			t.Errorf("host %s: Describe = %q, %q, %v, want %q", x.h.o.Host, host, got, err, x.want)
		}
		if _, err := c.Acquire(nil); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("Acquire without a state: %v", err)
		}
	}
	c := b.client()
	if _, all, err := c.Describe(slices.Repeat([]string{"vm1", "none"}, store.MaxDescribed)); err != nil || len(all) != 2 {
		t.Errorf("%d states, %v in two requests, want one in each", len(all), err)
	}
	c, err = a.open("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get("tpm2-00.permall"); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("Get without a state: %v", err)
	}
}

// TestReserved checks that a state whose TPM ended counts as owned for other hosts only, until the
// time to live is over.
func TestReserved(t *testing.T) {
	d := driver.NewMemory()
	a, b := newHost(t, d, "a"), newHost(t, d, "b")
	c := a.client()
	acquired(t, c)
	put(t, c, 1, "one")
	owners := func() (here, there string) {
		t.Helper()
		for i, h := range []*host{a, b} {
			e, _, err := h.client().Stat()
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				here = e.Owner
			} else {
				there = e.Owner
			}
		}
		return here, there
	}
	if here, there := owners(); here != "a" || there != "a" {
		t.Errorf("while the TPM runs the owners are %q and %q", here, there)
	}
	_ = c.Close()
	a.ended()
	_, err := b.client().Acquire(nil)
	if here, there := owners(); here != "" || there != "a" || !errors.Is(err, store.ErrOwned) {
		t.Errorf("after the end the owners are %q and %q; another host: %v", here, there, err)
	}
}
