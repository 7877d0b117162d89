package boots

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// Each report has the same content as text and as JSON.

// bootLine is a boot in a list.
type bootLine struct {
	Boot         uint64    `json:"boot"`
	Time         time.Time `json:"time"`
	Engine       string    `json:"engine"`
	Measurements int       `json:"measurements"`
	Changed      []uint32  `json:"changed"`
	More         int       `json:"more_changed,omitempty"` // PCRs and NV indexes that changed and are not in Changed
	Summary      string    `json:"summary"`
	Policies     string    `json:"policies,omitempty"`
	Notes        string    `json:"notes,omitempty"`
	Damaged      bool      `json:"damaged,omitempty"`
	Incomplete   bool      `json:"incomplete,omitempty"` // the values of the PCRs are not known
}

// List is a list of boots.
type List struct {
	Boots    []bootLine `json:"boots"`
	Damaged  []uint64   `json:"damaged,omitempty"` // boots whose record is not complete, or cannot be read
	Denied   []uint64   `json:"denied,omitempty"`  // boots whose files may not be read
	Warnings []string   `json:"warnings,omitempty"`
}

// List returns one line for each boot.
func (h *History) List() List {
	l := List{Boots: []bootLine{}, Damaged: h.Damaged, Denied: h.Denied, Warnings: h.Warnings}
	for _, b := range h.Boots {
		line := bootLine{
			Boot: b.Boot.Boot, Time: b.Time, Engine: b.Engine, Measurements: len(b.Measurements),
			Changed: []uint32{}, Summary: h.summary(b), Policies: policyText(b), Notes: notes(b), Damaged: b.Damage != nil, Incomplete: b.Incomplete(0),
		}
		if a := h.Previous(b); a != nil && b.Damage == nil {
			all := changedIndexes(compare(a, b))
			line.Changed = append(line.Changed, all[:min(len(all), mostIndexes)]...)
			line.More = len(all) - len(line.Changed)
		}
		l.Boots = append(l.Boots, line)
	}
	return l
}

// Text returns l for people, in the order of the boots.
func (l List) Text() string {
	lines := map[uint64]string{}
	for _, n := range l.Damaged {
		lines[n] = fmt.Sprintf("%d  record damaged, not readable\n", n)
	}
	for _, n := range l.Denied {
		lines[n] = fmt.Sprintf("%d  not readable: permission denied\n", n)
	}
	for _, b := range l.Boots {
		lines[b.Boot] = fmt.Sprintf("%d  %s  %s\n", b.Boot, stamp(b.Time),
			join("; ", count(b.Measurements, "measurement"), b.Summary, b.Policies, b.Notes))
	}
	var s strings.Builder
	for _, n := range slices.Sorted(maps.Keys(lines)) {
		s.WriteString(lines[n])
	}
	return s.String()
}

// item is a measurement with its name.
type item struct {
	Record   int               `json:"record"`
	Index    uint32            `json:"index"`
	Position int               `json:"position"`
	Digests  map[string]string `json:"digests"`
	Name     eventName         `json:"name"`

	short string
}

func (f *Files) item(h *History, b *Boot, m *measurement) *item {
	if m == nil {
		return nil
	}
	i := &item{m.Record, m.Index, m.Position, map[string]string{}, f.name(h, b, m), shortDigest(m)}
	for _, d := range m.Digests {
		i.Digests[d.Alg.String()] = hex.EncodeToString(d.Value)
	}
	return i
}

// Show contains everything that is known about a boot.
type Show struct {
	Boot         uint64         `json:"boot"`
	Time         time.Time      `json:"time"`
	Identity     string         `json:"identity"`
	TPM          string         `json:"tpm"`
	Engine       string         `json:"engine"`
	Profile      string         `json:"profile,omitempty"`
	Notes        string         `json:"notes,omitempty"`
	Incomplete   bool           `json:"incomplete,omitempty"` // pcrs is empty: the values are not known
	Measurements []*item        `json:"measurements"`
	Policies     []policyLine   `json:"policies"`
	Values       map[string]any `json:"pcrs"`
	values       []string
}

// policyLine is the use of a policy.
type policyLine struct {
	Record  int    `json:"record"`
	PCRs    string `json:"pcrs"`
	Result  uint32 `json:"result"`
	Command uint32 `json:"command"`
}

// Show returns everything that is known about a boot.
func (f *Files) Show(h *History, b *Boot) *Show {
	s := &Show{
		Boot: b.Boot.Boot, Time: b.Time, Identity: hex.EncodeToString(b.Identity[:]), TPM: b.TPM.String(), Engine: b.Engine, Profile: b.Profile,
		Notes: join("; ", h.tpmChange(b), notes(b)), Incomplete: b.Incomplete(0), Values: map[string]any{}, Measurements: []*item{}, Policies: []policyLine{},
	}
	for i := range b.Measurements {
		s.Measurements = append(s.Measurements, f.item(h, b, &b.Measurements[i]))
	}
	for _, o := range b.Outcomes {
		s.Policies = append(s.Policies, policyLine{o.Record, selectionText(o.Banks), o.Result, o.Code})
	}
	for _, bank := range b.finalBanks() {
		values := map[string]string{}
		for pcr := range ledger.PCRs {
			if v := bank.Value(pcr); v != nil {
				values[fmt.Sprint(pcr)] = hex.EncodeToString(v)
				if !unchanged(v) {
					s.values = append(s.values, fmt.Sprintf("%v PCR %d: %x", bank.Alg, pcr, v))
				}
			}
		}
		s.Values[bank.Alg.String()] = values
	}
	return s
}

// finalBanks returns the values at the end, none if they are not known.
func (b *Boot) finalBanks() []ledger.Bank {
	if b.Incomplete(0) {
		return nil
	}
	return b.Final.Banks()
}

// unchanged reports whether v is the value of a PCR after a reset: each byte is 0, or 0xff.
func unchanged(v []byte) bool {
	return len(v) > 0 && (v[0] == 0 || v[0] == 0xff) && bytes.Count(v, v[:1]) == len(v)
}

// Text returns s for people. It leaves out the values of PCRs that nothing extended.
func (s *Show) Text() string {
	var t strings.Builder
	fmt.Fprintf(&t, "Boot %d of TPM %s %s at %s, %s\n", s.Boot, s.TPM, s.Identity, stamp(s.Time), oneLine(join(", profile ", s.Engine, s.Profile)))
	if s.Notes != "" {
		fmt.Fprintf(&t, "%s\n", s.Notes)
	}
	for _, m := range s.Measurements {
		fmt.Fprintf(&t, "%4d  %s, measurement %d: %v\n      %s\n", m.Record, indexText(m.Index), m.Position, m.Name, m.short)
	}
	for _, p := range s.Policies {
		result := "opened"
		if p.Result != 0 {
			result = "failed, " + resultText(p.Result)
		}
		fmt.Fprintf(&t, "%4d  policy over %s: %s\n", p.Record, p.PCRs, result)
	}
	for _, v := range s.values {
		fmt.Fprintf(&t, "%s\n", v)
	}
	return t.String()
}

// changeLine is a change with the names of its measurements.
type changeLine struct {
	Kind     changeKind `json:"kind"`
	Index    uint32     `json:"index"`
	Position int        `json:"position"`
	Old      *item      `json:"old,omitempty"`
	New      *item      `json:"new,omitempty"`
	More     int        `json:"more_changes,omitempty"` // in the same PCR or NV index, if only the first change is given
}

func (f *Files) change(h *History, a, b *Boot, c change) changeLine {
	return changeLine{c.Kind, c.Index, c.Position, f.item(h, a, c.Old), f.item(h, b, c.New), c.More}
}

// write writes the change; the first line begins with head.
func (c changeLine) write(t *strings.Builder, head string) {
	fmt.Fprintf(t, "%s%s, measurement %d: %s\n", head, indexText(c.Index), c.Position, c.Kind)
	indent := strings.Repeat(" ", len(head)+2)
	if c.Old != nil {
		fmt.Fprintf(t, "%sbefore: %v, %s\n", indent, c.Old.Name, c.Old.short)
	}
	if c.New != nil {
		fmt.Fprintf(t, "%safter:  %v, %s\n", indent, c.New.Name, c.New.short)
	}
}

// Diff is the differences of two boots.
type Diff struct {
	Old     uint64       `json:"old"`
	New     uint64       `json:"new"`
	Changes []changeLine `json:"changes"`
	Host    []string     `json:"host"`
	Notes   []string     `json:"notes,omitempty"` // what limits the comparison
}

// Diff returns the differences of two boots.
func (f *Files) Diff(h *History, a, b *Boot) *Diff { return f.diff(h, a, b, compare(a, b)) }

func (f *Files) diff(h *History, a, b *Boot, changes []change) *Diff {
	d := &Diff{Old: a.Boot.Boot, New: b.Boot.Boot, Changes: []changeLine{}, Host: f.hostChanges(h, a, b)}
	for _, x := range []*Boot{a, b} {
		if x.lacks() {
			d.Notes = append(d.Notes, fmt.Sprintf("boot %d: %s: whether they differ is not known", x.Boot.Boot, afterLimit))
		}
	}
	for _, c := range changes {
		d.Changes = append(d.Changes, f.change(h, a, b, c))
	}
	return d
}

// Text returns d for people.
func (d *Diff) Text() string {
	var t strings.Builder
	for _, c := range d.Changes {
		c.write(&t, "")
	}
	for _, s := range d.Host {
		fmt.Fprintf(&t, "Host: %s\n", oneLine(s))
	}
	for _, s := range d.Notes {
		fmt.Fprintf(&t, "Note: %s\n", s)
	}
	if t.Len() == 0 {
		return fmt.Sprintf("Boots %d and %d: nothing changed.\n", d.Old, d.New)
	}
	return t.String()
}
