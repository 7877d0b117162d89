// Package boots reads the boot ledger of a TPM. It shows what each boot measured, what differs
// between two boots, and why the guest could not unseal a secret. The names of measurements come
// from constants, from files of the host, from the guest's own log, which is checked, and from
// dictionaries.
package boots

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// Bounds of what is read of a ledger.
const (
	maxFile  = 64 << 20
	maxBoots = 256
)

// ErrNone means that a TPM has no ledger.
var ErrNone = errors.New("no boot recorded")

// measurement is a value that a boot extended into a PCR or an NV index.
type measurement struct {
	Record   int // number of the record in the boot, from 1
	Index    uint32
	Position int // in the PCR since its last reset, from 1
	Digests  []ledger.Digest
}

// isNV reports whether the measurement is of an NV index.
func (m *measurement) isNV() bool { return m.Index >= ledger.PCRs }

// same reports whether m and n have the same digests, as far as both have them. The data of
// an NV index has no digest if it was encrypted.
func (m *measurement) same(n *measurement) bool {
	common := len(m.Digests) == 0 && len(n.Digests) == 0
	for _, d := range m.Digests {
		for _, e := range n.Digests {
			if d.Alg != e.Alg {
				continue
			}
			if !bytes.Equal(d.Value, e.Value) {
				return false
			}
			common = true
		}
	}
	return common
}

// outcome is the use of a policy over PCRs.
type outcome struct {
	Record int
	ledger.Policy
}

// Boot is a recorded boot.
type Boot struct {
	*ledger.Boot
	Measurements []measurement
	Outcomes     []outcome
	Final        *ledger.State
	Joined       bool   // the beginning is not recorded
	Missing      uint64 // measurements after the limit of records
	Ended        bool
	Locality     uint8 // of the startup
}

// newBoot computes the fields of a Boot from the records of b.
func newBoot(b *ledger.Boot) (*Boot, error) {
	n := &Boot{Boot: b}
	var err error
	if n.Final, n.Joined, err = b.Replay(nil); err != nil {
		return nil, err
	}
	places := map[uint32]int{}
	for i, r := range b.Records {
		switch r.Kind {
		case ledger.KindStartup:
			n.Locality = r.Locality
		case ledger.KindExtend:
			e, err := r.Extend()
			if err != nil {
				return nil, err
			}
			places[e.Index]++
			n.Measurements = append(n.Measurements, measurement{i + 1, e.Index, places[e.Index], e.Digests})
		case ledger.KindReset, ledger.KindSequence:
			for _, pcr := range resetBy(r) {
				delete(places, uint32(pcr))
			}
		case ledger.KindPolicy:
			p, err := r.Policy()
			if err != nil {
				return nil, err
			}
			n.Outcomes = append(n.Outcomes, outcome{i + 1, p})
		case ledger.KindOverflow:
			o, err := r.Overflow()
			if err != nil {
				return nil, err
			}
			n.Missing += o.Records
		case ledger.KindEnd:
			n.Ended = true
		case ledger.KindRestart:
			n.Ended = false
		}
	}
	return n, nil
}

// lacks reports whether measurements of the boot are not recorded.
func (b *Boot) lacks() bool { return b.Missing > 0 || b.Incomplete(0) }

// resetBy returns the PCRs that a record resets.
func resetBy(r ledger.Record) []int {
	switch r.Kind {
	case ledger.KindReset:
		if pcr, err := r.Reset(); err == nil {
			return []int{pcr}
		}
	case ledger.KindSequence:
		return []int{17, 18, 19, 20, 21, 22}
	}
	return nil
}

// sequence returns the measurements in a PCR since its last reset, up to a record. A record
// of 0 is the end of the boot.
func (b *Boot) sequence(index uint32, record int) []*measurement {
	var all []*measurement
	for i := range b.Measurements {
		m := &b.Measurements[i]
		if m.Index != index || record != 0 && m.Record > record {
			continue
		}
		if m.Position == 1 {
			all = all[:0]
		}
		all = append(all, m)
	}
	return all
}

// valuesAt returns the values of the PCRs after a record; 0 is the end of the boot.
func (b *Boot) valuesAt(record int) *ledger.State {
	if record == 0 || record >= len(b.Records) {
		return b.Final
	}
	cut := &ledger.Boot{Header: b.Header, Records: b.Records[:record]}
	s, _, err := cut.Replay(nil)
	if err != nil {
		return b.Final // newBoot has replayed the same records
	}
	return s
}

// lastSeen returns the time of the last record: while a machine runs, its firmware writes the
// variable store.
func (b *Boot) lastSeen() time.Time {
	t := b.Time
	for _, r := range b.Records {
		if at := b.Time.Add(time.Duration(r.Time) * time.Millisecond); at.After(t) {
			t = at
		}
	}
	return t
}

// indexes returns the PCRs and NV indexes that the boot extended, in order.
func (b *Boot) indexes() []uint32 {
	var all []uint32
	for i := range b.Measurements {
		all = append(all, b.Measurements[i].Index)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// History is the ledger of a TPM.
type History struct {
	Boots    []*Boot  // the oldest first
	Damaged  []uint64 // numbers of the boots whose record is not complete, or cannot be read
	Denied   []uint64 // numbers of the boots whose files may not be read
	Warnings []string
}

// Load reads the ledger files in dir whose names begin with one of the prefixes. It needs no lock,
// so that the TPM may run. It fails with ErrNone if there is no file.
func Load(dir string, prefixes ...string) (*History, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	d, err := safefile.OpenWith(dir, safefile.Options{Adopt: true})
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	h := &History{}
	var denied error
	for _, e := range entries {
		if !isLedger(e.Name(), prefixes) {
			continue
		}
		file, _, err := d.Read(e.Name(), maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a running TPM has removed it in the meantime
		}
		if err != nil {
			if errors.Is(err, fs.ErrPermission) {
				h.Denied = append(h.Denied, numberOf(e.Name(), prefixes))
				denied = err
				continue
			}
			h.warn("%v", err)
			h.damaged(e.Name(), prefixes)
			continue
		}
		if !h.add(filepath.Join(dir, e.Name()), file) {
			h.damaged(e.Name(), prefixes)
		}
	}
	slices.SortStableFunc(h.Boots, func(a, b *Boot) int { return int(a.Boot.Boot) - int(b.Boot.Boot) })
	if n := len(h.Boots) - maxBoots; n > 0 {
		h.Boots = h.Boots[n:]
	}
	slices.Sort(h.Denied)
	if denied != nil {
		denied = fmt.Errorf("%w; run the command as root, or as the user of the TPM", denied)
		h.warn("%v", denied)
	}
	if len(h.Boots) == 0 {
		if denied != nil {
			h.Warnings = nil
			return h, denied
		}
		return h, ErrNone
	}
	h.forgetComparisons()
	return h, nil
}

// forgetComparisons removes uses of policies without a command, if the PCRs had the same values as
// when the policy last succeeded: the guest stopped for another reason, or only compared values.
func (h *History) forgetComparisons() {
	var good []outcome // by the number of the policy
	var known policies
	for _, b := range h.Boots {
		b.Outcomes = slices.DeleteFunc(b.Outcomes, func(o outcome) bool {
			switch i, ok := known.find(o.Policy); {
			case o.Result == 0:
				if i = known.add(o.Policy); i == len(good) {
					good = append(good, o)
				}
				good[i] = o
			case o.Result == ledger.NotUsed && ok:
				return sameDigests(o.Digests, good[i].Digests)
			}
			return false
		})
	}
}

func sameDigests(a, b []ledger.Digest) bool {
	return len(a) > 0 && slices.EqualFunc(a, b, func(x, y ledger.Digest) bool { return x.Alg == y.Alg && bytes.Equal(x.Value, y.Value) })
}

func isLedger(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		_, ok := ledger.ParseName(p, name)
		return ok
	})
}

// add adds the boot of a file. It reports whether the file is intact; damage is a warning.
func (h *History) add(path string, file []byte) (intact bool) {
	b, err := ledger.Parse(file)
	if err != nil {
		h.warn("%s: %v", path, err)
		return false
	}
	boot, err := newBoot(b)
	if err != nil {
		h.warn("%s: %v", path, err)
		return false
	}
	h.Boots = append(h.Boots, boot)
	if b.Damage != nil {
		h.warn("%s: the rest is not used: %v", path, b.Damage)
	}
	return b.Damage == nil
}

// damaged adds the boot of a damaged file, whose number is in the name, to h.Damaged.
func (h *History) damaged(name string, prefixes []string) {
	if n := numberOf(name, prefixes); !slices.Contains(h.Damaged, n) {
		h.Damaged = append(h.Damaged, n)
	}
	slices.Sort(h.Damaged)
}

// numberOf returns the number of the boot from the name of its file.
func numberOf(name string, prefixes []string) uint64 {
	for _, p := range prefixes {
		if n, ok := ledger.ParseName(p, name); ok {
			return n
		}
	}
	return 0
}

// newest returns the number of the last boot, which may be unreadable.
func (h *History) newest() (n uint64) {
	for _, b := range h.Boots {
		n = max(n, b.Boot.Boot)
	}
	for _, other := range slices.Concat(h.Damaged, h.Denied) {
		n = max(n, other)
	}
	return n
}

// unknown returns the boots that are damaged or may not be read, if no intact boot after them used
// a policy over PCRs: their failures may be missing.
func (h *History) unknown() []uint64 {
	var last uint64
	for _, b := range h.Boots {
		if b.Damage == nil && policyText(b) != "" {
			last = max(last, b.Boot.Boot)
		}
	}
	return slices.DeleteFunc(slices.Sorted(slices.Values(slices.Concat(h.Damaged, h.Denied))), func(n uint64) bool { return n < last })
}

func (h *History) warn(format string, args ...any) {
	h.Warnings = append(h.Warnings, fmt.Sprintf(format, args...))
}

// Find returns the boot with this number, or the last boot for 0.
func (h *History) Find(number uint64) (*Boot, error) {
	if number == 0 && len(h.Boots) > 0 {
		return h.Boots[len(h.Boots)-1], nil
	}
	var have []string
	for _, b := range h.Boots {
		if b.Boot.Boot == number {
			return b, nil
		}
		have = append(have, fmt.Sprint(b.Boot.Boot))
	}
	return nil, fmt.Errorf("boot %d: not recorded; recorded are %s", number, strings.Join(have, ", "))
}

// Previous returns the boot before b whose record is not damaged, nil if there is none.
func (h *History) Previous(b *Boot) *Boot {
	for i := slices.Index(h.Boots, b) - 1; i >= 0; i-- {
		if h.Boots[i].Damage == nil {
			return h.Boots[i]
		}
	}
	return nil
}

// firstSeen returns the number of the first boot with the measurement in the same PCR.
func (h *History) firstSeen(m *measurement) uint64 {
	for _, b := range h.Boots {
		for i := range b.Measurements {
			if n := &b.Measurements[i]; n.Index == m.Index && n.same(m) {
				return b.Boot.Boot
			}
		}
	}
	return 0
}
