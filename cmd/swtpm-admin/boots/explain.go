package boots

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// failedPolicy is a policy over PCRs that does not open any more.
type failedPolicy struct {
	Banks    []ledger.Bank // selection
	Boot     *Boot         // the first one that failed
	Outcome  outcome       // the first failure
	Last     *Boot         // the last one that failed
	Good     *Boot         // the last one that succeeded, nil if none is recorded
	GoodAt   outcome
	Times    int // failures since then
	PCRs     []pcrChange
	OtherWay bool // the result is not one that PCRs cause
	Opened   bool // in the boot that failed, before
	Unknown  bool // the values of the PCRs at one of the two uses are not known
}

// pcrChange is what differs in a PCR of the selection.
type pcrChange struct {
	PCR     int
	Same    bool     // the value is the same
	Changes []change // up to the use of the policy; empty if the PCR began with another value
}

// Codes of results.
//
// Source: TPM 2.0 Library Part 2, 6.6.3; TPM Main Part 2, 16.
const (
	rcPolicyFail = 0x09d // format 1, without the number of the session or parameter
	rcValue      = 0x084
	rcPCRChanged = 0x128
	rcAuthFail   = 0x08e
	rcBadAuth    = 0x0a2
	rcWrongPCR12 = 0x018
	formatOne    = 0x0bf // mask
)

// pcrFailure reports whether a result can come from PCRs.
func pcrFailure(v tpm.Version, p ledger.Policy) bool {
	if v == tpm.V12 {
		return p.Result == rcWrongPCR12
	}
	if p.Result == ledger.NotUsed {
		return true
	}
	base := p.Result
	if base&0x80 != 0 {
		base &= formatOne
	}
	const policyPCR = 0x17f
	return base == rcPolicyFail || base == rcPCRChanged || base == rcValue && p.Code == policyPCR
}

// use is one use of a policy.
type use struct {
	boot    *Boot
	outcome outcome
}

// failures returns the policies over PCRs whose last use failed, in the order of their first
// failure, for the TPM of the last boot. It ignores results that PCRs cannot cause, unless there
// are no others. It compares the PCRs of the foremost failures only, and returns the number of the others.
func (h *History) failures() (some []failedPolicy, more int) {
	var groups [][]use
	var known policies
	last := h.Boots[len(h.Boots)-1]
	for _, b := range h.Boots {
		if !h.sameTPM(b, last) { // with other keys
			continue
		}
		for _, o := range b.Outcomes {
			if len(o.Banks) == 0 && b.TPM != tpm.V12 { // a TPM 1.2 does not name the PCRs of a key
				continue
			}
			i := known.add(o.Policy)
			if i == len(groups) {
				groups = append(groups, nil)
			}
			groups[i] = append(groups[i], use{b, o})
		}
	}
	var all []failedPolicy
	for _, g := range groups {
		if f, ok := failure(g); ok {
			all = append(all, f)
		}
	}
	some, more = foremost(all)
	for i := range some {
		some[i].compare()
	}
	return some, more
}

// failure returns the failure with which the uses of a policy end; ok is false if the last use
// succeeded.
func failure(uses []use) (f failedPolicy, ok bool) {
	last := uses[len(uses)-1]
	if last.outcome.Result == 0 {
		return f, false
	}
	begin := len(uses) - 1
	for begin > 0 && uses[begin-1].outcome.Result != 0 {
		begin--
	}
	good := begin - 1
	for good >= 0 && last.boot != uses[good].boot && uses[begin].boot == uses[good].boot {
		begin++ // it had opened in this boot
	}
	first := uses[begin]
	f = failedPolicy{Banks: last.outcome.Banks, Boot: first.boot, Outcome: first.outcome, Last: last.boot, Times: len(uses) - begin}
	f.OtherWay = !slices.ContainsFunc(uses[begin:], func(u use) bool { return pcrFailure(u.boot.TPM, u.outcome.Policy) })
	if good >= 0 {
		f.Good, f.GoodAt = uses[good].boot, uses[good].outcome
		f.Opened = f.Good == f.Last
		f.Unknown = f.Good.Incomplete(f.GoodAt.Record) || f.Boot.Incomplete(f.Outcome.Record)
	}
	return f, true
}

// compare finds what differs in the PCRs of the selection since the last success, if that can be known.
func (f *failedPolicy) compare() {
	if f.Good == nil || f.Unknown {
		return
	}
	then, now := f.Good.valuesAt(f.GoodAt.Record), f.Boot.valuesAt(f.Outcome.Record)
	for pcr := range ledger.PCRs {
		c := pcrChange{PCR: pcr, Same: true}
		selected := false
		for _, bank := range f.Banks {
			if bank.Has(pcr) {
				selected = true
				c.Same = c.Same && bytes.Equal(then.Value(bank.Alg, pcr), now.Value(bank.Alg, pcr))
			}
		}
		if !selected {
			continue
		}
		if !c.Same {
			c.Changes = compareSequences(f.Good.sequence(uint32(pcr), f.GoodAt.Record), f.Boot.sequence(uint32(pcr), f.Outcome.Record))
		}
		f.PCRs = append(f.PCRs, c)
	}
}

// changed returns the PCRs whose values differ.
func (f *failedPolicy) changed() []int {
	var all []int
	for _, c := range f.PCRs {
		if !c.Same {
			all = append(all, c.PCR)
		}
	}
	return all
}

// changesBetween describes what else changed on the host between two boots, as far as the headers of
// the boots and the given files show it.
func changesBetween(a, b *Boot, files []hostFile) []string {
	var all []string
	differ := func(what, old, new string) {
		if old != new {
			all = append(all, fmt.Sprintf("%s: was %s, is %s", what, orNone(old), orNone(new)))
		}
	}
	differ("TPM library", a.Engine, b.Engine)
	differ("algorithm profile", a.Profile, b.Profile)
	differ("version of the TPM", a.TPM.String(), b.TPM.String())
	if a.Locality != b.Locality {
		all = append(all, fmt.Sprintf("locality of the startup: was %d, is %d", a.Locality, b.Locality))
	}
	for _, f := range files {
		if f.What != "guest's log" && f.Changed.After(a.lastSeen()) && f.Changed.Before(b.Time) {
			all = append(all, fmt.Sprintf("%s %s: changed at %s, between the two boots", f.What, f.Path, stamp(f.Changed)))
		}
	}
	return all
}

// hostChanges returns the same as changesBetween, and changes of the TPM's identity and of the firmware, as
// far as the files name its volumes.
func (f *Files) hostChanges(h *History, a, b *Boot) []string {
	all := append([]string{}, changesBetween(a, b, f.Host)...)
	if text := h.identityChange(a, b); text != "" {
		all = append(all, text)
	}
	old, now := f.firmwareOf(a), f.firmwareOf(b)
	if old != now && old != "" && now != "" {
		all = append(all, fmt.Sprintf("firmware: boot %d measured %s, boot %d measured %s", a.Boot.Boot, old, b.Boot.Boot, now))
	}
	return all
}

// firmwareOf returns the file whose volumes a boot measured, "" if none of the files.
func (f *Files) firmwareOf(b *Boot) string {
	for _, m := range b.sequence(0, 0) {
		if n, ok := f.lookup(m); ok && n.Source == fromFile {
			return n.Origin
		}
	}
	return ""
}

// lastUse returns the number of the last boot that used a policy over PCRs, 0 if none did.
func (h *History) lastUse() (number uint64) {
	for _, b := range h.Boots {
		if policyText(b) != "" {
			number = b.Boot.Boot
		}
	}
	return number
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
