package emul

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// command returns a command without parameters for a TPM of version v.
func command(v tpm.Version, code tpm.Code) []byte {
	tag := byte(0x80)
	if v == tpm.V12 {
		return []byte{0, 0xc1, 0, 0, 0, 10, 0, 0, byte(code >> 8), byte(code)}
	}
	return []byte{tag, 1, 0, 0, 0, 10, 0, 0, byte(code >> 8), byte(code)}
}

// reading is a command that stores nothing.
const reading tpm.Code = 0x17b

// vary changes the state of the engine: an unchanged one is not stored again.
func (b *bench) vary() {
	p := b.e.fresh
	p[len(p)/2]++
	if b.opt.Version == tpm.V12 {
		end := len(p) - sha1.Size
		sum := sha1.Sum(p[:end])
		copy(p[end:], sum[:])
	}
}

// want runs a command and checks the result of the response.
func (b *bench) want(t *testing.T, what string, code tpm.Code, r tpm.Result) {
	t.Helper()
	v := b.opt.Version
	b.vary()
	if got := b.run(t, command(v, code)); !bytes.Equal(got, tpm.ErrorResponse(v, r)) {
		t.Errorf("%s: response %x, want result 0x%x", what, got, uint32(r))
	}
}

// retry is what a TPM of version v answers when the client is to try again.
func retry(v tpm.Version) tpm.Result {
	if v == tpm.V12 {
		return tpm.Retry
	}
	return tpm.RCRetry
}

// each runs f for both versions.
func each(t *testing.T, f func(t *testing.T, c *cluster, v tpm.Version)) {
	for _, v := range []tpm.Version{tpm.V12, tpm.V20} {
		t.Run(v.String(), func(t *testing.T) { f(t, newCluster(t), v) })
	}
}

// TestLeaseUnreachable checks the time before the deadline while the store is unreachable: reads
// succeed, a command that stores waits for the broker and gets a retry, and succeeds when the
// store answers.
func TestLeaseUnreachable(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		n := c.node("a")
		b := n.tpm(v, Options{}).on(t)
		b.want(t, "write", write, 0)
		before := n.uplink.writes.Load()
		n.uplink.down.Store(true)
		b.want(t, "read while unreachable", reading, 0)
		if got := n.uplink.refused.Load(); got != 0 {
			t.Errorf("the read made %d requests to the store, want none", got)
		}
		b.want(t, "write while unreachable", write, retry(v))
		if got := n.uplink.refused.Load(); got == 0 {
			t.Error("the write did not wait for the store")
		}
		b.want(t, "second read while unreachable", reading, 0)
		if got := n.uplink.writes.Load(); got != before {
			t.Errorf("%d writes while unreachable", got-before)
		}
		n.uplink.down.Store(false)
		b.want(t, "write afterwards", write, 0)
	})
}

// TestLeaseUnknown checks the answer to a command whose state was stored without a reply from the store:
// a client must not repeat it as one that has not begun.
func TestLeaseUnknown(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		n := c.node("a")
		b := n.tpm(v, Options{}).on(t)
		b.want(t, "write", write, 0)
		n.uplink.mute.Store(true)
		b.want(t, "write without a reply", write, map[tpm.Version]tpm.Result{tpm.V12: tpm.IOError, tpm.V20: tpm.RCNVUnavailable}[v])
		n.uplink.down.Store(false)
		b.want(t, "write afterwards", write, 0)
	})
}

// TestLeaseRenewPause checks that after the soft deadline the TPM tries to renew the lease, at
// most once in a second, and that reads succeed.
func TestLeaseRenewPause(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		n := c.node("a")
		b := n.tpm(v, Options{}).on(t)
		n.uplink.down.Store(true)
		c.advance(clusterTTL - 4*time.Second) // after the middle, before the end
		for i := range 3 {
			b.want(t, "read", reading, 0)
			if got := n.uplink.refused.Load(); got != 1 {
				t.Fatalf("read %d: %d renewals, want 1", i, got)
			}
		}
		c.advance(time.Duration(renewPause))
		b.want(t, "read", reading, 0)
		if got := n.uplink.refused.Load(); got != 2 {
			t.Errorf("%d renewals a second later, want 2", got)
		}
	})
}

// TestLeaseOverdue checks that every command gets a retry after the deadline, and that after
// give-up the TPM ends with the reason and has written nothing.
func TestLeaseOverdue(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		n := c.node("a")
		b := n.tpm(v, Options{}).on(t)
		b.want(t, "write", write, 0)
		before := n.uplink.writes.Load()
		n.uplink.down.Store(true)
		c.advance(clusterTTL)
		for range 3 {
			b.want(t, "read after the deadline", reading, retry(v))
			b.want(t, "write after the deadline", write, retry(v))
		}
		if text := "the lease could not be renewed"; strings.Count(strings.Join(*b.notes, "\n"), text) != 1 {
			t.Errorf("log %q, want %q once", *b.notes, text)
		}
		c.advance(clusterGiveUp)
		rsp, err := b.Execute(command(v, reading))
		if !errors.Is(err, ErrStorage) || rsp != nil || !strings.Contains(err.Error(), "store://vm1 could not be renewed for 1m0s after its deadline") {
			t.Errorf("after give-up: %x, %v, want ErrStorage with the reason", rsp, err)
		}
		if got := n.uplink.writes.Load(); got != before {
			t.Errorf("%d writes after the deadline", got-before)
		}
	})
}

// TestLeaseResumed checks that the guest continues if the store answers again before give-up.
func TestLeaseResumed(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		n := c.node("a")
		b := n.tpm(v, Options{}).on(t)
		n.uplink.down.Store(true)
		c.advance(clusterTTL)
		b.want(t, "read after the deadline", reading, retry(v))
		n.uplink.down.Store(false)
		b.want(t, "read afterwards", reading, 0)
		b.want(t, "write afterwards", write, 0)
		if !b.noted("the cluster store answers again") {
			t.Errorf("log %q", *b.notes)
		}
	})
}

// TestLeaseLost checks that a lost lease is acquired again, unnoticed by the guest, if no other
// host has acquired the state.
func TestLeaseLost(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		n := c.node("a")
		b := n.tpm(v, Options{}).on(t)
		b.want(t, "write", write, 0)
		for want := uint64(2); want < 5; want++ {
			c.advance(2 * clusterTTL)
			b.want(t, "read", reading, 0)
			b.want(t, "write", write, 0)
			if s, err := c.store.Read(t.Context(), "vm1"); err != nil || s.Epoch != want || s.Owner == nil {
				t.Errorf("state %+v, %v, want owner and epoch %d", s, err, want)
			}
		}
	})
}

// TestLeaseTaken checks that the process ends at once, names the other host, and writes nothing,
// if another host has the state.
func TestLeaseTaken(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		a, other := c.node("a"), c.node("b")
		ended := 0
		b := a.tpm(v, Options{End: func(error) { ended++ }}).on(t)
		b.want(t, "write", write, 0)
		before := a.uplink.writes.Load()
		a.uplink.down.Store(true) // the minority side of a partition
		c.advance(clusterTTL + time.Second)
		b.want(t, "read on the minority side", reading, retry(v))
		other.tpm(v, Options{}).on(t).want(t, "write on the majority side", write, 0)
		a.uplink.down.Store(false)
		for range 2 {
			rsp, err := b.Execute(command(v, reading))
			if !errors.Is(err, ErrTaken) || rsp != nil {
				t.Fatalf("response %x, error %v, want ErrTaken", rsp, err)
			}
			for _, text := range []string{"store://vm1", `host "b"`, "since ", "epoch 2", "stop the TPM there"} {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error %q without %q", err, text)
				}
			}
		}
		if got := a.uplink.writes.Load(); got != before || ended != 1 {
			t.Errorf("%d writes after the loss, End called %d times, want 0 and 1", got-before, ended)
		}
	})
}

// TestLeaseStopped checks that the response of a command is not sent if the process was stopped in
// the middle for longer than the TTL and another host has acquired the state.
func TestLeaseStopped(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		a, other := c.node("a"), c.node("b")
		b := a.tpm(v, Options{}).on(t)
		second := other.tpm(v, Options{})
		a.uplink.during.once(func() {
			c.advance(clusterTTL + time.Second)
			if err := second.Init(false); err != nil {
				t.Error(err)
			}
		})
		b.vary()
		if rsp, err := b.Execute(command(v, write)); !errors.Is(err, ErrTaken) || rsp != nil {
			t.Errorf("response %x, error %v, want ErrTaken and none", rsp, err)
		}
		second.want(t, "write of the new owner", write, 0)
	})
}

// TestLeaseStoppedUnreachable checks the same if the store is unreachable afterwards: the response
// waits until give-up, and is not sent.
func TestLeaseStoppedUnreachable(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		n := c.node("a")
		b := n.tpm(v, Options{}).on(t)
		n.uplink.during.once(func() {
			c.advance(clusterTTL + time.Second)
			n.uplink.renewal.set(func() { c.advance(clusterGiveUp / 3) })
			n.uplink.down.Store(true)
		})
		b.vary()
		if rsp, err := b.Execute(command(v, write)); !errors.Is(err, ErrStorage) || rsp != nil {
			t.Errorf("response %x, error %v, want ErrStorage and none", rsp, err)
		}
	})
}

// TestLeaseBrokerRestart checks that the TPM connects again within the deadline after the broker
// was killed or upgraded, and that the epoch stays.
func TestLeaseBrokerRestart(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		n := c.node("a")
		b := n.tpm(v, Options{}).on(t)
		for range 3 {
			b.want(t, "write", write, 0)
			n.stop()
			n.start()
			b.want(t, "read", reading, 0)
			b.want(t, "write", write, 0)
			if s, err := c.store.Read(t.Context(), "vm1"); err != nil || s.Epoch != 1 {
				t.Errorf("state %+v, %v, want epoch 1", s, err)
			}
		}
	})
}

// TestLeaseHostDies checks that another host gets the state of a host that died after the TTL, and
// not before.
func TestLeaseHostDies(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		a, other := c.node("a"), c.node("b")
		a.tpm(v, Options{}).on(t).want(t, "write", write, 0)
		second := other.tpm(v, Options{})
		for range 3 {
			if err := second.Init(false); err == nil || !strings.Contains(err.Error(), `host "a"`) || !strings.Contains(err.Error(), "epoch 1") {
				t.Fatalf("Init before the TTL: %v, want the owner", err)
			}
			c.advance(clusterTTL / 3)
		}
		c.advance(time.Second)
		second.on(t).want(t, "write", write, 0)
		if got := strings.Join(second.e.loads, " "); !strings.HasPrefix(got, "permall:") {
			t.Errorf("loaded %q, want the permanent state of the host that died", got)
		}
	})
}

// migrate migrates the permanent state of source, as it was when take returned it, to a TPM of
// another host, and returns the error of its INIT.
func migrate(source, to *bench, blob []byte, encrypted bool) error {
	source.ReleaseStorage()
	return errors.Join(to.PrepareSetState(), to.SetState(tpm.Permanent, encrypted, blob), to.Init(false))
}

// TestLeaseMigration checks that the destination of a live migration acquires the state that
// arrived, and that the source ends if its guest is used again.
func TestLeaseMigration(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		source := c.node("a").tpm(v, Options{}).on(t)
		source.want(t, "write", write, 0)
		blob, encrypted, err := source.State(tpm.Permanent, false)
		if err != nil {
			t.Fatal(err)
		}
		to := c.node("b").tpm(v, Options{Incoming: true})
		if err := migrate(source, to, blob, encrypted); err != nil {
			t.Fatal(err)
		}
		to.want(t, "write at the destination", write, 0)
		source.retries.Store(0)
		if rsp, err := source.Execute(command(v, reading)); rsp != nil || !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), `host "b"`) {
			t.Errorf("source afterwards: %x, %v, want the owner", rsp, err)
		}
	})
}

// TestLeaseMigrationRefused checks that the destination refuses a live migration with another
// state than the stored one, and that the source continues when the destination has ended.
func TestLeaseMigrationRefused(t *testing.T) {
	each(t, func(t *testing.T, c *cluster, v tpm.Version) {
		source := c.node("a").tpm(v, Options{}).on(t)
		source.want(t, "write", write, 0)
		old, encrypted, err := source.State(tpm.Permanent, false)
		if err != nil {
			t.Fatal(err)
		}
		source.want(t, "later write", write, 0)
		to := c.node("b").tpm(v, Options{Incoming: true})
		if err := migrate(source, to, old, encrypted); err == nil || !strings.Contains(err.Error(), "not the one in store://vm1") {
			t.Errorf("INIT with an old state: %v, want a refusal", err)
		}
		if err := to.Close(); err != nil {
			t.Fatal(err)
		}
		source.want(t, "read at the source", reading, 0)
		source.want(t, "write at the source", write, 0)
	})
}
