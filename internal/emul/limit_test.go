package emul

import (
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestStoreLimit checks the burst, what is worth a store afterwards, and that stores of
// commands that are never refused make a small debt.
func TestStoreLimit(t *testing.T) {
	l := newStoreLimit(60) // one a second, 1200 at once
	clock := time.Unix(1e9, 0)
	l.now = func() time.Time { return clock }
	burst := int(limitBurst / time.Second)
	for i := range burst {
		if l.over() {
			t.Fatalf("over the limit after %d stores, want %d", i, burst)
		}
		l.take(1)
	}
	if !l.over() {
		t.Fatalf("not over the limit after %d stores", burst)
	}
	clock = clock.Add(900 * time.Millisecond)
	if !l.over() {
		t.Error("not over the limit after 0.9 s")
	}
	clock = clock.Add(200 * time.Millisecond)
	if l.over() {
		t.Error("over the limit after 1.1 s")
	}
	l.take(1e9)
	clock = clock.Add(time.Minute)
	if !l.over() {
		t.Error("not over the limit a minute after a thousand stores too many")
	}
	clock = clock.Add(2 * time.Second)
	if l.over() {
		t.Error("over the limit a minute and two seconds after them")
	}
	clock = clock.Add(24 * time.Hour)
	l.refill()
	if l.credit != limitBurst {
		t.Errorf("credit %v after a day, want %v", l.credit, limitBurst)
	}
}

// TestLimitedCommands checks what is refused, that the engine does not see it, and that
// it gets its commands from the fast path again afterwards.
func TestLimitedCommands(t *testing.T) {
	b := newBench(t, Options{Version: tpm.V20, MaxStores: 1}).on(t)
	clock := time.Now()
	b.limit.now = func() time.Time { return clock }
	if got := result(b.run(t, writing)); got != 0 || !b.e.admitted {
		t.Fatalf("within the limit: result %v, admitted = %v", got, b.e.admitted)
	}
	b.e.Lock()
	b.limit.take(100)
	b.admit()
	b.e.Unlock()
	b.e.took()
	if got := result(b.run(t, writing)); got != tpm.RCNVRate || b.e.took() != "" || b.e.admitted || b.Limited() != 1 {
		t.Errorf("over the limit: result %v, admitted = %v, %d refused; want %v, false, 1", got, b.e.admitted, b.Limited(), tpm.RCNVRate)
	}
	if got := result(b.run(t, header(tpm.TagNoSessions, 0x17B))); got != 0 || b.Limited() != 1 {
		t.Errorf("TPM2_GetRandom over the limit: result %v, %d refused", got, b.Limited())
	}
	clock = clock.Add(5 * time.Minute)
	if got := result(b.run(t, writing)); got != 0 || !b.e.admitted {
		t.Errorf("after 5 minutes: result %v, admitted = %v", got, b.e.admitted)
	}
}
