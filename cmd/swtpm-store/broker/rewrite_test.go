package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// damagedHost is a host with a log, and its TPM with generation 4.
func damagedHost(t *testing.T, d driver.Driver) (*host, *errorLog, *store.Client, store.Grant) {
	t.Helper()
	h, log := newHost(t, d, "a"), &errorLog{}
	h.restart(func(o *Options) { o.Log = log })
	c := h.client()
	g := acquired(t, c)
	g.Revision = put(t, c, 4, "four")
	return h, log, c, g
}

// wantHead checks the head of the state, 0 for a damaged one, and the permanent item.
func wantHead(t *testing.T, d driver.Driver, generation uint64, item string) {
	t.Helper()
	now, err := d.Read(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	if now.Head.Generation != generation || (now.Damage != nil) != (generation == 0) || generation != 0 && now.Fault() != nil || string(now.Items["tpm2-00.permall"]) != item {
		t.Errorf("the store has head %+v, item %q, %v, want generation %d, %q", now.Head, now.Items["tpm2-00.permall"], now.Fault(), generation, item)
	}
}

// TestRewriteHead checks that a head which another program damages under a running TPM is written again at the
// next request that uses it, that nothing is lost, and that the log says so.
func TestRewriteHead(t *testing.T) {
	for _, x := range []struct {
		name       string
		request    func(t *testing.T, h *host, c *store.Client, g store.Grant) error
		generation uint64
		item       string
	}{
		{"Get", func(t *testing.T, _ *host, c *store.Client, _ store.Grant) error { wantItem(t, c, "four"); return nil }, 4, "four"},
		{"Put", func(t *testing.T, _ *host, c *store.Client, _ store.Grant) error { put(t, c, 5, "five"); return nil }, 5, "five"},
		{"Put of another item", func(_ *testing.T, _ *host, c *store.Client, _ store.Grant) error {
			_, err := c.Put(5, []store.Item{{Name: "tpm2-00.volatilestate", Blob: []byte("v")}}, nil)
			return err
		}, 5, "four"},
		{"Release", func(_ *testing.T, _ *host, c *store.Client, _ store.Grant) error { return c.Release([32]byte{7}) }, 4, "four"},
		{"Resume", func(_ *testing.T, h *host, _ *store.Client, g store.Grant) error {
			again, err := h.client().Resume(g.Token, g.Revision)
			if err == nil && (again.Generation != 4 || again.Token != g.Token) {
				err = fmt.Errorf("a grant of generation %d, token %d", again.Generation, again.Token)
			}
			return err
		}, 4, "four"},
	} {
		for _, epoch := range []string{"", "epoch", "no epoch"} {
			t.Run(x.name+epoch, func(t *testing.T) {
				d := driver.NewMemory()
				h, log, c, g := damagedHost(t, d)
				d.Damage("vm1", epoch) // the token says who owns the state
				d.Damage("vm1", "head")
				if err := x.request(t, h, c, g); err != nil {
					t.Fatal(err)
				}
				wantHead(t, d, x.generation, x.item)
				if n := log.count("its head was changed by another program, and is written again"); n != 1 {
					t.Errorf("the log has %q, want one line about the head", log.lines)
				}
				if x.name == "Release" {
					if _, err := newHost(t, d, "b").client().Acquire(&[32]byte{7}); err != nil {
						t.Errorf("the handover is lost: %v", err)
					}
				}
			})
		}
	}
}

// TestRewriteHeadLost checks that a write without a reply is settled by the items, after another program has
// damaged the head, and that it is not made twice.
func TestRewriteHeadLost(t *testing.T) {
	for _, made := range []bool{false, true} {
		memory := driver.NewMemory()
		d := &faulty{Driver: memory}
		_, _, c, _ := damagedHost(t, d)
		d.mu.Lock()
		if d.lossy, d.last = 1, true; !made {
			d.lossy, d.lost, d.half = 0, 1, 1
		}
		d.mu.Unlock()
		_, err := c.Put(5, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("five")}}, nil)
		wantError(t, "Put without a reply", err, store.ErrUnknown)
		memory.Damage("vm1", "head")
		d.set(nil)
		want, generation := "four", uint64(4)
		if made {
			want, generation = "five", 5
		}
		wantItem(t, c, want)
		wantHead(t, memory, generation, want)
		put(t, c, 6, "six")
		wantHead(t, memory, 6, "six")
		all, err := c.Generations()
		if err != nil || slices.Contains(all, 5) != made || !slices.Contains(all, 6) {
			t.Errorf("made %v: generations %v, %v", made, all, err)
		}
	}
}

// TestRewriteHeadChanged checks that a TPM is fenced if its items were changed with the head: the damage stays,
// for people to see, and the state can be released.
func TestRewriteHeadChanged(t *testing.T) {
	for _, request := range []string{"Put", "Get", "Release"} {
		d := driver.NewMemory()
		_, _, c, _ := damagedHost(t, d)
		now, err := d.Read(t.Context(), "vm1")
		if err == nil {
			_, err = d.Write(t.Context(), "vm1", now.Token, now.Revision, driver.Change{Head: now.Head, Put: driver.Items{"tpm2-00.permall": []byte("other")}})
		}
		if err != nil {
			t.Fatal(err)
		}
		d.Damage("vm1", "head")
		switch request {
		case "Put":
			_, err = c.Put(5, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("five")}}, nil)
		case "Get":
			_, err = c.Get("tpm2-00.permall")
		}
		if request != "Release" && (!errors.Is(err, store.ErrFenced) || !strings.Contains(err.Error(), "swtpm state rollback --generation 4")) {
			t.Errorf("%s: %v, want fenced with the remedy", request, err)
		}
		wantHead(t, d, 0, "other")
		if err := c.Release([32]byte{}); err != nil {
			t.Errorf("Release: %v", err)
		}
		wantHead(t, d, 0, "other")
		acquired(t, newHost(t, d, "b").client())
	}
}

// TestDamagedHead checks that no broker takes a damaged head for the head of a new state, if it does not
// know what was in it: the TPM does not start or go on, no change hides the damage, and a change that
// replaces everything repairs it, with the generations as they were.
func TestDamagedHead(t *testing.T) {
	const want = "restore a stored generation: swtpm state rollback --generation 4 --tpmstate backend-uri=store://vm1 --key file=KEY; or copy it out: swtpm state pull --generation 4 vm1 DIRECTORY; or restore a backup: swtpm state import --replace --tpmstate backend-uri=store://vm1 --key file=KEY FILE"
	d := driver.NewMemory()
	h, _, c, g := damagedHost(t, d)
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
		wantHead(t, d, 0, "four")
	}
	_ = c.Close()
	h.stop()
	d.Damage("vm1", "head")
	h.start()
	c = h.client()
	_, err := c.Resume(g.Token, g.Revision)
	refused("Resume with another run of the broker", err)
	for range 2 {
		if g := acquired(t, c); g.Generation != 0 {
			t.Errorf("a damaged head has generation %d", g.Generation)
		}
		_, err = c.Get("tpm2-00.permall")
		refused("Get", err)
		_, err = c.Put(1, []store.Item{{Name: "tpm2-00.volatilestate", Blob: []byte("v")}}, nil)
		refused("Put of another item", err)
		_, err = c.Put(1, nil, []string{"tpm2-00.permall"})
		refused("Put that removes all", err)
		if err := c.Release([32]byte{}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.Acquire(&[32]byte{})
	refused("Acquire of a migrated state", err)
	if now, err := d.Read(t.Context(), "vm1"); err != nil || now.Owner != nil {
		t.Errorf("a refused state has owner %+v, %v", now.Owner, err)
	}
	acquired(t, c)
	put(t, c, 4, "again") // a client that does not count above the stored generations
	if old, err := c.Generation(4); err != nil || string(old[0].Blob) != "four" {
		t.Errorf("generation 4 = %q, %v, want it as it was", old, err)
	}
	put(t, c, 5, "five")
	wantHead(t, d, 5, "five")
}

// TestRepairLost checks that the write that repairs a damaged head is made once if it gets no reply, and
// that the state is not locked if it is never made.
func TestRepairLost(t *testing.T) {
	for _, made := range []bool{false, true} {
		memory := driver.NewMemory()
		d := &faulty{Driver: memory}
		h, _, c, _ := damagedHost(t, d)
		if err := c.Release([32]byte{}); err != nil {
			t.Fatal(err)
		}
		memory.Damage("vm1", "head")
		acquired(t, c)
		d.mu.Lock()
		if d.lost, d.lossy = 1, 0; made {
			d.lost, d.lossy = 0, 1
		}
		d.mu.Unlock()
		put(t, c, 5, "five")
		wantHead(t, memory, 5, "five")
		_ = c.Close()
		h.stop()
	}
}

// TestDamagedExpired checks that a TPM whose lease expired is fenced, with the remedy, if the head was
// damaged meanwhile: another host may have used the state.
func TestDamagedExpired(t *testing.T) {
	memory := driver.NewMemory()
	h, _, c, _ := damagedHost(t, memory)
	h.revoke(memory)
	memory.Damage("vm1", "head")
	_, err := c.Put(5, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("five")}}, nil)
	if !errors.Is(err, store.ErrFenced) || !strings.Contains(err.Error(), "swtpm state rollback --generation 4") {
		t.Errorf("Put: %v, want fenced with the remedy", err)
	}
	wantHead(t, memory, 0, "four")
}

// TestDamagedOwner checks that a TPM goes on under an owner that cannot be read, that no other host gets
// the state meanwhile, and that its end repairs that.
func TestDamagedOwner(t *testing.T) {
	d := driver.NewMemory()
	h, _, c, g := damagedHost(t, d)
	other := newHost(t, d, "b").client()
	d.Damage("vm1", "owner")
	rev := put(t, c, 5, "five")
	wantItem(t, c, "five")
	if _, err := c.Renew(); err != nil {
		t.Error(err)
	}
	_, err := other.Acquire(nil)
	wantError(t, "Acquire by another host", err, store.ErrDamaged)
	_, _, err = other.Stat()
	wantError(t, "Stat by another host", err, store.ErrDamaged)
	_ = c.Close()
	c = h.client()
	if _, err := c.Resume(g.Token, rev); err != nil {
		t.Fatalf("Resume with the same run of the broker: %v", err)
	}
	rev = put(t, c, 6, "six")
	_ = c.Close()
	h.stop()
	h.start()
	_, err = h.client().Resume(g.Token, rev)
	wantError(t, "Resume with another run of the broker", err, store.ErrDamaged)
	h.stop()

	d = driver.NewMemory()
	_, _, c, _ = damagedHost(t, d)
	d.Damage("vm1", "owner")
	if err := c.Release([32]byte{}); err != nil {
		t.Fatal(err)
	}
	other = newHost(t, d, "b").client()
	acquired(t, other)
	wantItem(t, other, "four")
}

// TestDamagedEpoch checks that an epoch which cannot be read keeps no TPM from its state.
func TestDamagedEpoch(t *testing.T) {
	d := driver.NewMemory()
	_, _, c, g := damagedHost(t, d)
	d.Damage("vm1", "epoch")
	put(t, c, 5, "five")
	if err := c.Release([32]byte{}); err != nil {
		t.Fatal(err)
	}
	d.Damage("vm1", "epoch")
	if again := acquired(t, c); again.Epoch <= g.Epoch || again.Generation != 5 {
		t.Errorf("grant %+v after %+v", again, g)
	}
	wantItem(t, c, "five")
}
