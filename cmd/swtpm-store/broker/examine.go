package broker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

// examineTime is how long an examination takes at most.
const examineTime = 3 * time.Second

// examinePause is how long the result of an examination is used again, so that clients cannot make
// the broker ask the members of the store all the time.
const examinePause = 2 * time.Second

// examination is the last result of Broker.examine.
type examination struct {
	mu    sync.Mutex
	at    time.Time
	found []driver.Finding
}

// examine replies with the faults of the store.
func (x *client) examine(ctx context.Context, r *store.Body) error {
	if err := r.Done(); err != nil {
		return err
	}
	all := x.b.examine(ctx)
	x.out = binary.BigEndian.AppendUint16(x.out, uint16(len(all)))
	for _, f := range all {
		warning := byte(0)
		if f.Warning {
			warning = 1
		}
		text := f.Text
		if len(text) > 1000 {
			text = text[:1000]
		}
		x.out = store.AppendString(store.AppendString(append(x.out, warning), string(f.Problem)), text)
	}
	return nil
}

func (b *Broker) examine(ctx context.Context) []driver.Finding {
	e := &b.examination
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.at.IsZero() && time.Since(e.at) < examinePause {
		return e.found
	}
	var found []driver.Finding
	if d, ok := b.o.Driver.(driver.Examiner); ok {
		found = d.Examine(ctx)
	}
	if err := b.checkPosition(ctx); errors.Is(err, driver.ErrRestored) {
		found = append(found, driver.Finding{Problem: driver.Restored, Text: err.Error()})
	}
	b.marking.Lock()
	if b.markFailed != nil {
		found = append(found, driver.Finding{Problem: driver.Restored, Warning: true, Text: fmt.Sprintf("a restored backup would not be noticed: %v", b.markFailed)})
	}
	b.marking.Unlock()
	e.at, e.found = time.Now(), found
	return found
}

// checkPosition fails if the store is older than this host has seen it, or is another store.
// Otherwise it stores the position of the store in the mark.
func (b *Broker) checkPosition(ctx context.Context) error {
	d, ok := b.o.Driver.(driver.Positioner)
	if !ok || b.o.MarkFile == "" {
		return nil
	}
	now, err := d.Position(ctx)
	if err != nil {
		return err
	}
	b.marking.Lock()
	defer b.marking.Unlock()
	before, err := ReadMark(b.o.MarkFile)
	if err == nil && Restored(now, before) != nil {
		// Another request may have moved the mark in the meantime, and only a position that
		// is read after the mark can be compared with it.
		again, failed := d.Position(ctx)
		if failed != nil {
			return failed
		}
		now = again
	}
	if err != nil {
		b.restored.Store(false)
		b.noteMark(err)
		return nil
	}
	restored := Restored(now, before)
	b.restored.Store(restored != nil)
	if restored == nil && now != before {
		b.noteMark(WriteMark(b.o.MarkFile, now))
	}
	return restored
}

// doubt returns err, unless err names an owner and the store was restored: that owner may come from
// the backup, so doubt returns the error about the restored store instead.
func (b *Broker) doubt(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*driver.OwnedError](err); ok {
		if restored := b.checkPosition(ctx); errors.Is(restored, driver.ErrRestored) {
			return restored
		}
	}
	return err
}

// Restored returns an error if the store at the position now is older than mark, the last position
// that this host has seen, or if it is another store. etcd gives a restored backup a new cluster
// ID.
func Restored(now, mark driver.Position) error {
	const advice = "first check endpoints and prefix in store.toml; old states may lack keys and counters that guests rely on; " +
		"only if a backup was restored on purpose, run on each host: swtpm-store --accept-rollback"
	switch {
	case mark.Cluster != 0 && now.Cluster != mark.Cluster:
		return fmt.Errorf("%w: it is cluster %x, and this host has seen cluster %x; %s", driver.ErrRestored, now.Cluster, mark.Cluster, advice)
	case mark.Prefix != "" && now.Prefix != mark.Prefix:
		return fmt.Errorf("%w: prefix is %q, and this host has used %q; correct prefix in store.toml, or, if all TPMs of this host are to be other ones, run: swtpm-store --accept-rollback", driver.ErrRestored, now.Prefix, mark.Prefix)
	case now.Revision < mark.Revision:
		return fmt.Errorf("%w: it is at revision %d, and this host has seen %d; %s", driver.ErrRestored, now.Revision, mark.Revision, advice)
	}
	return nil
}

// noteMark logs once that the mark cannot be used.
func (b *Broker) noteMark(err error) {
	if err != nil && b.markFailed == nil {
		b.o.Log.Errorf("a restored backup of the store would not be noticed: %v", err)
	}
	b.markFailed = err
}

// ReadMark returns the last position of the store that this host has seen, zero if there is none.
func ReadMark(file string) (p driver.Position, err error) {
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return p, nil
	case err != nil:
		return p, err
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

// WriteMark stores the position of the store. A crash of the host may lose the last changes of the
// mark. A lower mark has no other effect than that a backup between both positions is accepted.
func WriteMark(file string, p driver.Position) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	next := file + ".new"
	if err := os.WriteFile(next, text, 0o644); err != nil {
		return err
	}
	return os.Rename(next, file)
}
