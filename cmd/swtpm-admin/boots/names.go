package boots

import (
	"fmt"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/ledger"
)

// nameSource is where the name of a measurement comes from, the most certain one first.
type nameSource int

// The sources.
const (
	fromConstant nameSource = iota
	fromFile
	fromLogData // the guest's log, and the digest is one of the event's data
	fromLog     // the guest's log, which claims it
	fromDictionary
	fromPosition
	unknownSource
)

// String returns how certain a name from the source is.
func (s nameSource) String() string {
	return [...]string{
		"certain: constant", "certain: computed from a file of the host", "certain: content in the guest's log has this digest",
		"claimed by the guest's log", "listed in a dictionary", "likely: by its position", "unknown",
	}[s]
}

// MarshalText returns a word for programs.
func (s nameSource) MarshalText() ([]byte, error) {
	return []byte([...]string{"constant", "file", "log-content", "log-claim", "pcrlock", "position", "unknown"}[s]), nil
}

// eventName describes a measurement.
type eventName struct {
	Text   string     `json:"text"`
	Source nameSource `json:"source"`
	Origin string     `json:"origin,omitempty"` // a file

	data []byte        // what was measured, if it is known and of use in a log
	kind eventlog.Type // its type
}

// String returns the name with its source, on one line: a text may come from a guest.
func (n eventName) String() string {
	switch {
	case n.Source == unknownSource:
		return oneLine(n.Text)
	case n.Origin != "":
		return fmt.Sprintf("%s (%v, %s)", oneLine(n.Text), n.Source, oneLine(n.Origin))
	}
	return fmt.Sprintf("%s (%v)", oneLine(n.Text), n.Source)
}

// pcrMask is a set of PCRs.
type pcrMask uint32

// anyPCR is all of them, and NV indexes.
const anyPCR pcrMask = 0xffffffff

func pcrs(all ...int) (m pcrMask) {
	for _, pcr := range all {
		m |= 1 << pcr
	}
	return m
}

func (m pcrMask) has(index uint32) bool {
	return m == anyPCR || index < ledger.PCRs && m>>index&1 != 0
}

// candidate is a name for a digest in some PCRs.
type candidate struct {
	pcrs pcrMask
	name eventName
}

// Bounds of a dictionary.
const (
	maxNames      = 1 << 20
	maxCandidates = 16 // of one digest
)

// Dictionary finds names of digests.
type Dictionary struct{ names map[string][]candidate }

// NewDictionary returns a dictionary with the constants.
func NewDictionary() *Dictionary {
	d := &Dictionary{names: map[string][]candidate{}}
	d.addConstants()
	return d
}

// banks are the algorithms that a dictionary knows.
var banks = []ledger.Alg{ledger.SHA1, ledger.SHA256, ledger.SHA384, ledger.SHA512}

// addData names the digests of data.
func (d *Dictionary) addData(in pcrMask, data []byte, n eventName) {
	for _, alg := range banks {
		d.addDigest(in, ledger.Digest{Alg: alg, Value: eventlog.Sum(alg, data)}, n)
	}
}

func (d *Dictionary) addDigest(in pcrMask, digest ledger.Digest, n eventName) {
	key := fmt.Sprintf("%d:%x", digest.Alg, digest.Value)
	if all := d.names[key]; len(all) < maxCandidates && len(d.names) < maxNames {
		d.names[key] = append(all, candidate{in, n})
	}
}

// lookup returns the most certain name of a measurement. ok is false if it is unknown.
func (d *Dictionary) lookup(m *measurement) (n eventName, ok bool) {
	n.Source = unknownSource
	for _, digest := range m.Digests {
		for _, c := range d.at(digest) {
			if source := d.sourceOf(c, m); c.pcrs.has(m.Index) && source < n.Source {
				n, ok = c.name, true
				n.Source = source
			}
		}
	}
	return n, ok
}

func (d *Dictionary) at(digest ledger.Digest) []candidate {
	return d.names[fmt.Sprintf("%d:%x", digest.Alg, digest.Value)]
}

// sourceOf returns how certain the name c is for m. A guest can extend each bank with any digest. A
// name that was computed from content has the digests of all banks, so that a different digest in
// one bank refutes it. A name from a log or a dictionary may lack banks, and is then only a claim.
func (d *Dictionary) sourceOf(c candidate, m *measurement) nameSource {
	for _, digest := range m.Digests {
		if slices.ContainsFunc(d.at(digest), func(o candidate) bool { return o.name.Text == c.name.Text && o.name.Origin == c.name.Origin }) {
			continue
		}
		switch c.name.Source {
		case fromConstant, fromFile:
			return unknownSource
		case fromLogData:
			return fromLog
		}
	}
	return c.name.Source
}

// name returns the name of a measurement of boot b: from the dictionary, by its position,
// or the boot in which it was first seen.
func (d *Dictionary) name(h *History, b *Boot, m *measurement) eventName {
	if n, ok := d.lookup(m); ok {
		return n
	}
	if text := d.byPosition(b, m); text != "" {
		return eventName{Text: text, Source: fromPosition}
	}
	text := "unknown"
	if first := h.firstSeen(m); first != 0 {
		text = fmt.Sprintf("unknown, first seen in boot %d", first)
	}
	return eventName{Text: text, Source: unknownSource}
}

// secureBoot are the first measurements of PCR 7, in order.
//
// Source: TCG PC Client Platform Firmware Profile 1.06, 3.3.4.8.
var secureBoot = []string{"SecureBoot", "PK", "KEK", "db", "dbx"}

// byPosition returns the name that a measurement has by its position, or "".
func (d *Dictionary) byPosition(b *Boot, m *measurement) string {
	all := b.sequence(m.Index, 0)
	at := m.Position - 1
	if b.Joined || at >= len(all) || all[at] != m { // the position is not known either
		return ""
	}
	switch {
	case m.Index == 7 && at < len(secureBoot):
		return "Secure Boot variable " + secureBoot[at]
	case m.Index == 0 && at > 0:
		// EDK2 measures its version, then its volumes. It runs the first one in memory
		// and changes it there, so that its digest is in no file.
		if n, ok := d.lookup(all[0]); ok && strings.HasPrefix(n.Text, versionText) {
			return fmt.Sprintf("firmware volume %d of the firmware (as it is in memory)", at)
		}
	case m.Index == 10 && at == 0:
		return "boot_aggregate of Linux's IMA: a digest over other PCRs"
	case m.Index == 9 && at == 1:
		if n, ok := d.lookup(all[0]); ok && strings.HasPrefix(n.Text, commandLineText) {
			return "initial file system (initrd)"
		}
	}
	return d.inStub(all[:at+1])
}

// inStub returns the name of a measurement that follows the name of a section.
func (d *Dictionary) inStub(all []*measurement) string {
	if len(all) < 2 || all[0].Index != 11 {
		return ""
	}
	n, ok := d.lookup(all[len(all)-2])
	if section, is := strings.CutPrefix(n.Text, sectionText); ok && is {
		return "content of section " + section + " of the kernel image"
	}
	return ""
}
