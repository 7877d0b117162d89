package broker

import (
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// TestReleaseWithoutRead checks that a state is not released with a damaged head if the read fails that
// shows the damage: the broker knows the head, and the next try writes it again.
func TestReleaseWithoutRead(t *testing.T) {
	memory := driver.NewMemory()
	d := &faulty{Driver: memory}
	_, _, c, _ := damagedHost(t, d)
	memory.Damage("vm1", "head")
	d.mu.Lock()
	d.reads = 1
	d.mu.Unlock()
	wantError(t, "Release without a read", c.Release([32]byte{7}), store.ErrUnreachable)
	if now, err := memory.Read(t.Context(), "vm1"); err != nil || now.Owner == nil {
		t.Errorf("owner %+v, %v, want this host until the head is written again", now.Owner, err)
	}
	if err := c.Release([32]byte{7}); err != nil {
		t.Fatal(err)
	}
	wantHead(t, memory, 4, "four")
	if _, err := newHost(t, memory, "b").client().Acquire(&[32]byte{7}); err != nil {
		t.Errorf("the handover is lost: %v", err)
	}
}

// TestReleaseChanged checks that no handover is stored in a head that another program has written: the
// target of a migration must not take the state for the one that the source has left.
func TestReleaseChanged(t *testing.T) {
	for _, lost := range []bool{false, true} {
		memory := driver.NewMemory()
		d := &faulty{Driver: memory}
		_, log, c, _ := damagedHost(t, d)
		if lost { // the write of generation 5 is settled at the release
			d.mu.Lock()
			d.lossy, d.last = 1, true
			d.mu.Unlock()
			_, err := c.Put(5, []store.Item{{Name: "tpm2-00.permall", Blob: []byte("five")}}, nil)
			wantError(t, "Put without a reply", err, store.ErrUnknown)
			d.set(nil)
		}
		now, err := memory.Read(t.Context(), "vm1")
		if err != nil {
			t.Fatal(err)
		}
		other := driver.Items{"tpm2-00.permall": []byte("other")}
		if _, err := memory.Write(t.Context(), "vm1", now.Token, now.Revision, driver.Change{Put: other, Head: driver.Head{Generation: 9, Sum: other.Sum(), Epoch: now.Epoch}}); err != nil {
			t.Fatal(err)
		}
		if err := c.Release([32]byte{7}); err != nil {
			t.Fatal(err)
		}
		if now, err := memory.Read(t.Context(), "vm1"); err != nil || now.Owner != nil || now.Head.Generation != 9 || now.Head.Handover != (driver.Sum{}) {
			t.Errorf("lost %t: head %+v, owner %+v, %v, want generation 9 without handover and no owner", lost, now.Head, now.Owner, err)
		}
		if n := log.count("is released as it is"); n != 1 {
			t.Errorf("lost %t: the log has %q, want one line about the change", lost, log.lines)
		}
		_, err = newHost(t, memory, "b").client().Acquire(&[32]byte{7})
		wantError(t, "Acquire of a migrated state", err, store.ErrHandover)
	}
}
