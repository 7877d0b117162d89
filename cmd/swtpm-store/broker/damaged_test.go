package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// TestLostItem checks that a state whose permanent item was removed in the store is not taken for
// one that never was, and that only a change which leaves nothing of the damage repairs it.
func TestLostItem(t *testing.T) {
	d := driver.NewMemory()
	h := newHost(t, d, "a")
	c := h.client()
	acquired(t, c)
	permanent := func(text string) store.Item { return store.Item{Name: "tpm2-00.permall", Blob: []byte(text)} }
	volatile := store.Item{Name: "tpm2-00.volatilestate", Blob: []byte("v")}
	if _, err := c.Get("tpm2-00.permall"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of a new state: %v", err)
	}
	put(t, c, 4, "four")
	if _, err := c.Put(5, []store.Item{permanent("five"), volatile}, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Release([32]byte{}); err != nil {
		t.Fatal(err)
	}
	tamper(t, d, driver.Change{Delete: []string{"tpm2-00.permall"}})
	const want = "the permanent state of generation 5 is missing; if no TPM uses it, restore a stored generation: swtpm state rollback --generation 5 --drop-volatile --tpmstate backend-uri=store://vm1 --key file=KEY; or copy it out: swtpm state pull --generation 5 vm1 DIRECTORY"
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	for _, owner := range []bool{false, true} {
		if owner {
			acquired(t, c)
		}
		for _, name := range []string{"tpm2-00.permall", "tpm2-00.volatilestate", "other"} {
			_, err := c.Get(name)
			refused(name, err)
		}
	}
	_, err := c.Put(6, []store.Item{volatile}, nil)
	refused("Put of another item", err)
	_, err = c.Put(6, []store.Item{permanent("six")}, nil)
	refused("Put that leaves an item", err)
	_, err = c.Put(6, nil, []string{"tpm2-00.volatilestate"})
	refused("Put that removes the rest", err)
	if _, err = c.Put(6, []store.Item{permanent("six")}, []string{"tpm2-00.volatilestate"}); err != nil {
		t.Errorf("Put that repairs: %v", err)
	}
	wantItem(t, c, "six")
	if _, err := c.Get("tpm2-00.volatilestate"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of a removed item: %v", err)
	}
	put(t, c, 7, "seven")
}

// TestStrayItems checks that a state is repaired by a change that stores the permanent state of a TPM
// and names its other items, whatever else another program has stored next to them.
func TestStrayItems(t *testing.T) {
	d := driver.NewMemory()
	_, log, c, _ := damagedHost(t, d)
	permanent := []store.Item{{Name: "tpm2-00.permall", Blob: []byte("five")}}
	others := []string{"tpm2-00.volatilestate", "tpm2-00.savestate"}
	if err := c.Release([32]byte{}); err != nil {
		t.Fatal(err)
	}
	strays := driver.Items{"x": []byte("1"), "not a name": []byte("2"), "tpm-00.savestate": []byte("3"), "tpm2-00.volatilestate": []byte("4")}
	tamper(t, d, driver.Change{Put: strays})
	acquired(t, c)
	for what, put := range map[string]func() error{
		"Put of a stray item":             func() error { _, err := c.Put(5, []store.Item{{Name: "x", Blob: []byte("5")}}, others); return err },
		"Put without the permanent state": func() error { _, err := c.Put(5, nil, append(others, "x", "tpm-00.savestate")); return err },
		"Put that leaves the volatile state": func() error {
			_, err := c.Put(5, permanent, others[1:])
			return err
		},
	} {
		wantError(t, what, put(), store.ErrDamaged)
	}
	if now, err := d.Read(t.Context(), "vm1"); err != nil || len(now.Items) != 5 {
		t.Errorf("the store has %v, %v after refused changes", now, err)
	}
	if _, err := c.Put(5, permanent, others); err != nil {
		t.Errorf("Put that repairs: %v", err)
	}
	wantHead(t, d, 5, "five")
	if now, err := d.Read(t.Context(), "vm1"); err != nil || len(now.Items) != 1 {
		t.Errorf("the store has %v, %v, want only the permanent state", now, err)
	}
	put(t, c, 6, "six")
	wantHead(t, d, 6, "six")
	if n := log.count("does not belong to the restored TPM"); n != 3 {
		t.Errorf("%d lines in the log, want one for each removed item", n)
	}
}

// TestManyStrayItems checks that a repair with more stray items than fit into one transaction removes all
// of them, after the state is repaired, and continues later if one change fails.
func TestManyStrayItems(t *testing.T) {
	const strays = 350
	for _, fails := range []bool{false, true} {
		memory := driver.NewMemory()
		d := &faulty{Driver: memory}
		_, log, c, _ := damagedHost(t, d)
		if err := c.Release([32]byte{}); err != nil {
			t.Fatal(err)
		}
		items := driver.Items{}
		for n := range strays {
			items[fmt.Sprint("stray", n)] = []byte{1}
		}
		tamper(t, memory, driver.Change{Put: items})
		acquired(t, c)
		left := 0
		if fails { // the second of the four changes that remove items is made without a reply, and so is the next one
			d.mu.Lock()
			d.after, left = 2, strays-200
			d.mu.Unlock()
		}
		if _, err := c.Put(5, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("five")}}, []string{"tpm2-00.volatilestate", "tpm2-00.savestate"}); err != nil {
			t.Fatalf("Put that repairs: %v", err)
		}
		wantHead(t, memory, 5, "five")
		if now, err := memory.Read(t.Context(), "vm1"); err != nil || len(now.Items) != 1+left {
			t.Errorf("fails %t: the store has %d items, %v, want %d", fails, len(now.Items), err, 1+left)
		}
		if err := c.Release([32]byte{}); err != nil {
			t.Fatal(err)
		}
		wantHead(t, memory, 5, "five")
		if now, err := memory.Read(t.Context(), "vm1"); err != nil || len(now.Items) != 1 {
			t.Errorf("fails %t: the store has %d items, %v, want only the permanent state", fails, len(now.Items), err)
		}
		if n := log.count("belong to the restored TPM"); n != loggedStrays+1 {
			t.Errorf("%d lines in the log, want %d", n, loggedStrays+1)
		}
	}
}

// TestOtherTPM checks that the repair of a state does not remove the permanent state of another TPM.
func TestOtherTPM(t *testing.T) {
	d := driver.NewMemory()
	_, _, c, _ := damagedHost(t, d)
	if err := c.Release([32]byte{}); err != nil {
		t.Fatal(err)
	}
	tamper(t, d, driver.Change{Put: driver.Items{"tpm-00.permall": []byte("other")}})
	acquired(t, c)
	permanent := []store.Item{{Name: "tpm2-00.permall", Blob: []byte("five")}}
	others := []string{"tpm2-00.volatilestate", "tpm2-00.savestate"}
	_, err := c.Put(5, permanent, others)
	wantError(t, "Put next to another TPM", err, store.ErrDamaged)
	if err == nil || !strings.Contains(err.Error(), `"tpm-00.permall" is the permanent state of another TPM`) {
		t.Errorf("the error does not name the item: %v", err)
	}
	if now, err := d.Read(t.Context(), "vm1"); err != nil || string(now.Items["tpm-00.permall"]) != "other" {
		t.Errorf("the store has %v, %v", now, err)
	}
	if _, err := c.Put(5, permanent, append(others, "tpm-00.permall")); err != nil {
		t.Errorf("Put that names the other TPM's state: %v", err)
	}
}

// tamper makes a change without a head of its own, as a person with the credentials of the store may.
func tamper(t *testing.T, d driver.Driver, c driver.Change) {
	t.Helper()
	id, err := d.Grant(t.Context(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	token, err := d.Acquire(t.Context(), "vm1", id, driver.Owner{Host: "etcdctl"})
	if err != nil {
		t.Fatal(err)
	}
	now, err := d.Read(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	c.Head = now.Head
	if _, err := d.Write(t.Context(), "vm1", token, now.Revision, c); err != nil {
		t.Fatal(err)
	}
	if err := d.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}
