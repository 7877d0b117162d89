package emul

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// RollbackPolicy says what happens to a state that generation.Check objects to.
type RollbackPolicy uint8

// The policies.
const (
	WarnRollback   RollbackPolicy = iota // log it
	RefuseRollback                       // INIT fails
	IgnoreRollback
)

// Marks remembers the newest state of each TPM that was seen.
type Marks interface {
	// Read returns the mark of a TPM. Its error is fs.ErrNotExist if the TPM has no mark.
	Read(id generation.Identity) (generation.Mark, error)
	Write(m generation.Mark) error

	// Move writes the mark of a TPM that is at location now, and was at m.Place before.
	Move(m generation.Mark, location string) error

	// Exchanged returns an error if the TPM of m was last seen elsewhere, and another TPM at
	// location.
	Exchanged(m generation.Mark, location string) error

	// Lock excludes other running copies of a TPM on this host until the result is closed.
	// Its error wraps nv.ErrRunning if one runs.
	Lock(id generation.Identity) (io.Closer, error)
}

// markDelay is the time from a store until the mark is written.
const markDelay = 5 * time.Second

// past is the known history of the state.
type past struct {
	incoming  map[tpm.Blob]generation.Found // of the blobs that wait in the engine; none for one that hides an item
	declared  bool                          // the state is used on purpose, even if it is old
	logged    bool                          // the missing record was logged
	misplaced atomic.Bool                   // the state is where another TPM was, and that is not declared

	armed  atomic.Bool // the mark will be written
	mu     sync.Mutex  // of mark
	mark   generation.Mark
	failed bool // writing the mark failed, and that was logged
}

// received records a blob that waits in the engine.
func (p *past) received(b tpm.Blob, payload, record []byte) {
	if p.incoming == nil {
		p.incoming = map[tpm.Blob]generation.Found{}
	}
	delete(p.incoming, b)
	if len(payload) > 0 {
		p.incoming[b] = nv.NewFound(b.Name(), record, sha256.Sum256(payload))
	}
}

// checkPast compares the history of the state that the engine is about to start with
// to the mark of its TPM, and continues the history. A state that came through the control channel
// is used on purpose, even if it is old: its next generations are larger than all that were seen, and
// the process that sent it may still run for a moment. Any other state is refused while another copy
// of the TPM runs.
func (t *TPM) checkPast() error {
	if t.restarting {
		return nil
	}
	found, err := t.findItems()
	if err != nil {
		return err
	}
	before := t.store.Mark()
	mark := t.readMark(found, before)
	declared := t.past.declared || t.pending[tpm.Permanent]
	// Compat: C-284: swtpm runs two copies.
	if err := t.store.LockIdentity(mark.Identity, !t.pending[tpm.Permanent]); err != nil {
		return withResult(err, tpm.Fail)
	}
	known := &mark
	if declared {
		known = nil
	}
	floor := mark.Known.Max()
	exchanged := t.checkPlace(found, known)
	t.past.misplaced.Store(exchanged != nil)
	err = generation.Check(found, known)
	if err == nil {
		err = exchanged
	}
	if err != nil && t.opt.Rollback != IgnoreRollback {
		if t.opt.Rollback == RefuseRollback {
			return &RollbackError{err, t.acceptAdvice(err), t.loadResult(tpm.Permanent, err)}
		}
		t.opt.Error("%s: %v; %s", t.opt.Where, err, t.acceptAdvice(err))
		if !declared && err != exchanged {
			floor = 0 // the warning stays until the state is accepted
		}
	}
	same := before.Identity != generation.Identity{} && before.Identity == mark.Identity
	t.store.Continue(found, floor, same || t.handover.resuming != nil)
	t.logUnrecorded(found)
	t.markSoon()
	return nil
}

// checkPlace returns an error if the location of the state had another TPM before. A state that is
// newer than its mark is accepted, because a verb of swtpm state has stored it. It is also newer if
// the previous process was killed before it wrote the mark; then an exchange is not detected. mark
// is nil for a state that is used on purpose.
func (t *TPM) checkPlace(found []generation.Found, mark *generation.Mark) error {
	if t.opt.Marks == nil || t.opt.Location == "" || mark == nil {
		return nil
	}
	for _, f := range found {
		if f.Record != nil && f.Record.Generation > mark.Known.Max() {
			return nil
		}
	}
	return t.opt.Marks.Exchanged(*mark, t.opt.Location)
}

// RollbackError is the error of Init for a state that RefuseRollback refuses.
type RollbackError struct {
	Finding error      // of generation.Check or an exchanged state
	Advice  string     // the remedy; it ends with a command
	Result  tpm.Result // for the client
}

// Error returns the finding and the remedy. The result comes before the command, which can be copied.
func (e *RollbackError) Error() string {
	return fmt.Sprintf("%v: %v; %s", e.Finding, e.Result, e.Advice)
}

// Unwrap returns the finding and the result.
func (e *RollbackError) Unwrap() []error { return []error{e.Finding, e.Result} }

// acceptAdvice returns the remedy for err, what generation.Check objects to.
func (t *TPM) acceptAdvice(err error) string {
	advice := ""
	if errors.Is(err, generation.ErrExchanged) {
		advice = "put both states back if they were exchanged by mistake, or, "
	}
	advice += "if this state is wanted, run: swtpm state accept --tpmstate backend-uri=" + t.opt.Where
	if t.opt.KeyArgument != "" {
		advice += " --key " + t.opt.KeyArgument
	}
	return advice
}

// findItems returns the items that the engine is about to start with.
func (t *TPM) findItems() ([]generation.Found, error) {
	unread := []tpm.Blob{}
	if t.handover.resuming != nil {
		unread = append(unread, tpm.Volatile)
	}
	if t.opt.Version == tpm.V12 {
		unread = append(unread, tpm.Savestate)
	}
	for _, b := range unread {
		p, err := t.store.Load(b.Name())
		seal.Wipe(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && isSystem(err) {
			return nil, withResult(err, t.loadResult(b, err))
		}
	}
	var found []generation.Found
	for _, f := range t.store.Found() {
		if !t.pending[tpm.Blob(f.Item)] {
			found = append(found, f)
		}
	}
	for b, f := range t.past.incoming {
		if t.pending[b] {
			found = append(found, f)
		}
	}
	return found, nil
}

// readMark returns the mark of the TPM whose items were found, with what this process
// has stored of it.
func (t *TPM) readMark(found []generation.Found, before generation.Mark) generation.Mark {
	var mark generation.Mark
	for _, f := range found {
		if f.Item == generation.Permanent && f.Record != nil {
			mark.Identity = f.Record.Identity
		}
	}
	if mark.Identity == (generation.Identity{}) {
		return mark
	}
	if t.opt.Marks != nil {
		if m, err := t.opt.Marks.Read(mark.Identity); err == nil {
			mark = m
		}
	}
	if before.Identity == mark.Identity && t.opt.Marks != nil {
		mark.Raise(before)
	}
	t.past.mu.Lock()
	defer t.past.mu.Unlock()
	t.past.mark = mark
	return mark
}

// logUnrecorded logs once that a state has no record.
func (t *TPM) logUnrecorded(found []generation.Found) {
	for _, f := range found {
		if f.Item == generation.Permanent && f.Record == nil && !t.past.logged {
			t.past.logged = true
			t.opt.Note("%s: generation record missing: the state was last stored by swtpm or by an older version; a new history begins as TPM %s", t.opt.Where, t.store.Mark().Identity)
		}
	}
}

// markSoon writes the mark after markDelay in the background, so that no command waits for the disk.
func (t *TPM) markSoon() {
	if t.opt.Marks == nil || t.past.armed.Swap(true) {
		return
	}
	store := t.store
	t.opt.After(markDelay, func() { t.opt.Background(func() { t.writeMark(store) }) })
}

// writeMark writes the generations of the records on disk, unless the mark has them. It needs no
// lock of the engine.
func (t *TPM) writeMark(store *nv.Store) {
	t.past.armed.Store(false)
	m := store.Mark()
	if t.opt.Marks == nil || m.Known.Max() == 0 {
		return
	}
	_ = store.LockIdentity(m.Identity, false) // of a new TPM, or after the source of a migration has ended
	t.past.mu.Lock()
	defer t.past.mu.Unlock()
	next := t.past.mark
	if next.Identity != m.Identity {
		next = generation.Mark{}
	}
	next.Raise(m)
	write := t.opt.Marks.Write
	if here := generation.PlaceOf(t.opt.Location); next.Place != here && t.opt.Location != "" && !t.past.misplaced.Load() {
		from := next.Place
		next.Place = here
		write = func(m generation.Mark) error {
			m.Place = from
			return t.opt.Marks.Move(m, t.opt.Location)
		}
	}
	if next == t.past.mark || store.SyncDeferred() != nil { // the mark must not be newer than the state after a power cut
		return
	}
	if err := write(next); err != nil {
		if !t.past.failed {
			t.past.failed = true
			t.opt.Note("rollback mark not written: %v", err)
		}
		return
	}
	t.past.mark = next
}
