package boots

import (
	"bytes"
	"fmt"
	"path/filepath"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/ledger"
)

// LogCheck compares the log of a guest with the boot that it fits best.
type LogCheck struct {
	Path     string
	Boot     uint64
	Matched  int
	Only     []logEntry     // entries of the log that the TPM did not measure
	Missing  []*measurement // measurements that the log does not have
	After    int            // measurements after the end of the log
	Damage   error          // the log is malformed after its first entries
	complete bool           // a log of firmware has all measurements
}

// logEntry is an entry of a log.
type logEntry struct {
	Number int // from 1
	eventlog.Entry
}

// agrees reports whether the log and the boot do not contradict each other.
func (c *LogCheck) agrees() bool {
	return len(c.Only) == 0 && len(c.Missing) == 0 && c.Damage == nil && c.Matched > 0
}

// AddGuestLog checks a log of the guest, names the measurements that are in it, and returns
// the result of the check.
func (f *Files) AddGuestLog(h *History, path string) (*LogCheck, error) {
	b, err := f.read(path, "guest's log", maxLog)
	if err != nil {
		return nil, err
	}
	entries, damage := eventlog.Parse(b)
	if len(entries) == 0 && damage != nil {
		return nil, fmt.Errorf("%s: %w", path, damage)
	}
	var best *LogCheck
	for i := len(h.Boots) - 1; i >= 0; i-- {
		c := checkLog(h.Boots[i], entries)
		if best == nil || c.Matched > best.Matched || c.Matched == best.Matched && len(c.Missing) < len(best.Missing) {
			best = c
		}
	}
	if best == nil {
		return nil, ErrNone
	}
	best.Path, best.Damage = path, damage
	f.nameEntries(entries, best, filepath.Base(path))
	return best, nil
}

// nameEntries adds names of the entries that both the log and the ledger have.
func (f *Files) nameEntries(entries []eventlog.Entry, c *LogCheck, origin string) {
	wrong := map[int]bool{}
	for _, o := range c.Only {
		wrong[o.Number] = true
	}
	for i := range entries {
		e := &entries[i]
		if wrong[i+1] || e.Text == "" || e.Index >= ledger.PCRs {
			continue
		}
		n := eventName{Text: e.Text, Source: fromLog, Origin: origin}
		if e.Verified() {
			n.Source, n.data, n.kind = fromLogData, e.Data, e.Type
		}
		for _, digest := range e.Digests {
			f.addDigest(pcrs(int(e.Index)), digest, n)
		}
	}
}

// checkLog compares a log with a boot, PCR by PCR and digest by digest.
func checkLog(b *Boot, entries []eventlog.Entry) *LogCheck {
	c := &LogCheck{Boot: b.Boot.Boot, complete: true}
	if len(entries) > 0 && entries[0].Type == 0 {
		c.complete = false // systemd's log has only what systemd has measured
	}
	logged := map[uint32][]*measurement{}
	for i := range entries {
		e := &entries[i]
		logged[e.Index] = append(logged[e.Index], &measurement{Record: i + 1, Index: e.Index, Position: len(logged[e.Index]) + 1, Digests: e.Digests})
	}
	first, last := len(b.Records)+1, 0
	var missing []*measurement
	for pcr := range uint32(ledger.PCRs) {
		var measured []*measurement
		for i := range b.Measurements {
			if m := &b.Measurements[i]; m.Index == pcr {
				measured = append(measured, m)
			}
		}
		matched, only, left := match(logged[pcr], measured)
		c.Matched += len(matched)
		for _, m := range matched {
			first, last = min(first, m.Record), max(last, m.Record)
		}
		for _, m := range only {
			c.Only = append(c.Only, logEntry{m.Record, entries[m.Record-1]})
		}
		if c.complete || len(logged[pcr]) > 0 {
			missing = append(missing, left...)
		}
	}
	c.sortOut(missing, first, last)
	return c
}

// sortOut separates the measurements that the log must have from those after its end. The
// firmware measures in the PCRs 0 to 7; the system, which comes later, does not.
func (c *LogCheck) sortOut(missing []*measurement, first, last int) {
	for _, m := range missing {
		switch {
		case !c.complete && m.Record < first:
		case m.Record < last, c.complete && m.Index < 8:
			c.Missing = append(c.Missing, m)
		default:
			c.After++
		}
	}
}

// match returns the measurements that a log has, the entries that only the log has, and the
// measurements that it does not have.
func match(logged, measured []*measurement) (matched, only, left []*measurement) {
	removed, added := map[*measurement]bool{}, map[*measurement]bool{}
	for _, c := range compareSequences(logged, measured) {
		removed[c.Old], added[c.New] = true, true
	}
	for _, m := range logged {
		if removed[m] || !whole(m) {
			only = append(only, m)
		}
	}
	for _, m := range measured {
		if added[m] {
			left = append(left, m)
		} else {
			matched = append(matched, m)
		}
	}
	return matched, only, left
}

// whole reports whether the digests of an entry are of different algorithms.
func whole(m *measurement) bool {
	seen := map[ledger.Alg][]byte{}
	for _, d := range m.Digests {
		if v, ok := seen[d.Alg]; ok && !bytes.Equal(v, d.Value) {
			return false
		}
		seen[d.Alg] = d.Value
	}
	return len(m.Digests) > 0
}
