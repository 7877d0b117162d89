package broker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// positioned is a store in memory with a revision that a test sets.
type positioned struct {
	*driver.Memory
	findings []driver.Finding

	mu sync.Mutex
	at driver.Position
}

func (p *positioned) Position(context.Context) (driver.Position, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, nil
}

func (p *positioned) Examine(context.Context) []driver.Finding { return p.findings }

// move sets the revision; a broker may be running.
func (p *positioned) move(revision uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at.Revision = revision
}

// TestRestored checks that a store which is older than this host knows it is refused until that is
// accepted, also after a restart of the broker.
func TestRestored(t *testing.T) {
	d := &positioned{Memory: driver.NewMemory(), at: driver.Position{Cluster: 7, Revision: 100}}
	h := &host{t: t, socket: filepath.Join(t.TempDir(), "s")}
	h.o = Options{
		Driver: d, Host: "a", Boot: "boot", Log: testLog{t}, Allow: func(Credentials, string) bool { return true },
		MarkFile: filepath.Join(t.TempDir(), "mark"), TTL: time.Hour, // nothing is renewed in the background
	}
	for _, x := range []struct {
		revision uint64
		refused  bool
	}{{100, false}, {150, false}, {150, false}, {149, true}, {100, true}, {151, false}} {
		d.move(x.revision)
		h.start()
		c := h.client()
		_, err := c.Acquire(nil)
		if x.refused != (err != nil) || x.refused && !strings.Contains(err.Error(), "this host has seen 150") {
			t.Errorf("Acquire at revision %d: %v", x.revision, err)
		}
		found, err := c.Examine()
		if err != nil || x.refused != (len(found) == 1) || x.refused && found[0].Problem != string(driver.Restored) {
			t.Errorf("Examine at revision %d: %+v, %v", x.revision, found, err)
		}
		if err := c.Release([32]byte{}); x.refused != (err != nil) {
			t.Errorf("Release at revision %d: %v", x.revision, err)
		}
		h.stop()
	}
	d.move(10)
	if err := WriteMark(h.o.MarkFile, d.at); err != nil { // as --accept-rollback does
		t.Fatal(err)
	}
	h.start()
	defer h.stop()
	c := h.client()
	acquired(t, c)
	put(t, c, 1, "one")
	if err := c.Release([32]byte{}); err != nil {
		t.Fatal(err)
	}
	d.move(9) // while the lease is valid
	if found, err := c.Examine(); err != nil || len(found) != 1 {
		time.Sleep(examinePause)
		if found, err = c.Examine(); err != nil || len(found) != 1 {
			t.Errorf("Examine = %+v, %v", found, err)
		}
	}
	if _, err := c.Acquire(nil); err == nil {
		t.Error("a restored store was used with a lease that was still valid")
	}
}

// TestRestoredOwner checks that the owner in a restored backup does not end a TPM that runs: the error
// says that the store was restored.
func TestRestoredOwner(t *testing.T) {
	d := &positioned{Memory: driver.NewMemory(), at: driver.Position{Cluster: 7, Revision: 100}}
	h := &host{t: t, socket: filepath.Join(t.TempDir(), "s")}
	h.o = Options{
		Driver: d, Host: "a", Boot: "boot", Log: testLog{t}, Allow: func(Credentials, string) bool { return true },
		MarkFile: filepath.Join(t.TempDir(), "mark"), TTL: time.Hour,
	}
	h.start()
	defer h.stop()
	c := h.client()
	g := acquired(t, c)
	put(t, c, 1, "one")
	lease, err := d.Grant(t.Context(), time.Hour)
	if err == nil {
		err = d.Release(t.Context(), "vm1", driver.Token(g.Token), driver.Sum{})
	}
	if err == nil {
		_, err = d.Acquire(t.Context(), "vm1", lease, driver.Owner{Host: "host5", Nonce: "n"})
	}
	if err != nil {
		t.Fatal(err)
	}
	blob := []store.Item{{Name: "tpm2-00.permall", Blob: []byte("two")}}
	_, err = c.Put(2, blob, nil)
	if !errors.Is(err, store.ErrOwned) || !strings.Contains(err.Error(), "a backup of the store may have been restored") {
		t.Errorf("Put while another host owns the state: %v", err)
	}
	d.move(50)
	if _, err = c.Put(2, blob, nil); !errors.Is(err, store.ErrUnreachable) || !strings.Contains(err.Error(), "restored from an older backup") {
		t.Errorf("Put to a restored store: %v", err)
	}
}

// TestOtherCluster checks that a store with another cluster ID is refused, whatever its revision.
func TestOtherCluster(t *testing.T) {
	mark := driver.Position{Cluster: 7, Revision: 100}
	for _, x := range []struct {
		now, mark driver.Position
		restored  bool
	}{
		{driver.Position{Cluster: 7, Revision: 100}, mark, false},
		{driver.Position{Cluster: 8, Revision: 100}, mark, true},
		{driver.Position{Cluster: 8, Revision: 1000}, mark, true},
		{driver.Position{Cluster: 8, Revision: 1000}, driver.Position{}, false},             // the first start
		{driver.Position{Cluster: 8, Revision: 100}, driver.Position{Revision: 100}, false}, // a mark without a cluster
	} {
		if err := Restored(x.now, x.mark); x.restored != errors.Is(err, driver.ErrRestored) {
			t.Errorf("store at %+v, mark %+v: %v", x.now, x.mark, err)
		}
	}
	d := &positioned{Memory: driver.NewMemory(), at: driver.Position{Cluster: 8, Revision: 1000}}
	file := filepath.Join(t.TempDir(), "mark")
	if err := WriteMark(file, mark); err != nil {
		t.Fatal(err)
	}
	b := New(Options{Driver: d, Log: testLog{t}, MarkFile: file})
	if err := b.checkPosition(t.Context()); !errors.Is(err, driver.ErrRestored) || !b.restored.Load() {
		t.Errorf("another cluster: %v", err)
	}
	if now, err := ReadMark(file); err != nil || now != mark {
		t.Errorf("the mark is %+v, %v: another cluster was noted", now, err)
	}
}

// late is a store whose first position is an old one: other requests moved the mark meanwhile.
type late struct {
	*driver.Memory
	asked int
	file  string
}

func (l *late) Position(context.Context) (driver.Position, error) {
	if l.asked++; l.asked == 1 {
		return driver.Position{Cluster: 7, Revision: 50}, WriteMark(l.file, driver.Position{Cluster: 7, Revision: 60})
	}
	return driver.Position{Cluster: 7, Revision: 61}, nil
}

// TestPositionRace checks that a mark which moves between the look at the store and the look at the
// mark is no restored store.
func TestPositionRace(t *testing.T) {
	d := &late{Memory: driver.NewMemory(), file: filepath.Join(t.TempDir(), "mark")}
	b := New(Options{Driver: d, Log: testLog{t}, MarkFile: d.file})
	if err := b.checkPosition(t.Context()); err != nil || b.restored.Load() || d.asked != 2 {
		t.Errorf("checkPosition: %v after %d looks at the store", err, d.asked)
	}
	if now, err := ReadMark(d.file); err != nil || now.Revision != 61 {
		t.Errorf("the mark is %+v, %v, want revision 61", now, err)
	}
}

// TestExamine checks that the findings of a driver reach the client.
func TestExamine(t *testing.T) {
	d := &positioned{Memory: driver.NewMemory(), findings: []driver.Finding{
		{Problem: driver.Quota, Text: "full"}, {Problem: driver.Clock, Warning: true, Text: strings.Repeat("x", 2000)},
	}}
	found, err := newHost(t, d, "a").client().Examine()
	if err != nil || len(found) != 2 || found[0].Problem != "quota" || found[0].Text != "full" || found[0].Warning || !found[1].Warning || len(found[1].Text) != 1000 {
		t.Errorf("Examine = %+v, %v", found, err)
	}
	if found, err := newHost(t, driver.NewMemory(), "b").client().Examine(); err != nil || len(found) != 0 {
		t.Errorf("Examine of a store in memory = %+v, %v", found, err)
	}
}

// TestOtherPrefix checks that a store with another prefix than this host has used is refused, as
// another cluster is, and that a mark without a prefix gets one.
func TestOtherPrefix(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	if err := os.WriteFile(mark, []byte(`{"cluster":7,"revision":90}`), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &positioned{Memory: driver.NewMemory(), at: driver.Position{Cluster: 7, Revision: 100, Prefix: "/swtpm"}}
	b := New(Options{Driver: d, MarkFile: mark, Log: testLog{t}})
	if err := b.checkPosition(t.Context()); err != nil {
		t.Fatalf("with an old mark: %v", err)
	}
	d.at.Prefix = "/swtmp"
	const want = `prefix is "/swtmp", and this host has used "/swtpm"; correct prefix in store.toml`
	if err := b.checkPosition(t.Context()); !errors.Is(err, driver.ErrRestored) || !strings.Contains(err.Error(), want) {
		t.Errorf("with another prefix: %v, want %q", err, want)
	}
	d.at.Prefix = "/swtpm"
	if err := b.checkPosition(t.Context()); err != nil {
		t.Errorf("with the earlier prefix: %v", err)
	}
}
