package boots

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// stamp returns a time for people, with its zone.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// oneLine returns s without newlines, so that a text of a guest cannot look like lines of this
// program.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", `\n`) }

// indexText returns the name of a PCR or an NV index.
func indexText(index uint32) string {
	if index < ledger.PCRs {
		return fmt.Sprintf("PCR %d", index)
	}
	return fmt.Sprintf("NV index %#x", index)
}

// indexList returns "PCR 0, 7, NV 0x1500000". It names at most mostIndexes and returns the number of the
// others.
func indexList[T int | uint32](all []T) string {
	if len(all) == 0 {
		return "no PCR"
	}
	var words []string
	for _, i := range all[:min(len(all), mostIndexes)] {
		switch nv := uint64(i) >= ledger.PCRs; {
		case nv:
			words = append(words, fmt.Sprintf("NV %#x", i))
		case len(words) == 0:
			words = append(words, fmt.Sprint("PCR ", i))
		default:
			words = append(words, fmt.Sprint(i))
		}
	}
	list := strings.Join(words, ", ")
	if more := len(all) - len(words); more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}

// selectionText returns "PCR 7 (sha256)".
func selectionText(all []ledger.Bank) string {
	if len(all) == 0 {
		return "unknown PCRs"
	}
	var words []string
	for _, b := range all {
		var list []int
		for pcr := range ledger.PCRs {
			if b.Has(pcr) {
				list = append(list, pcr)
			}
		}
		words = append(words, fmt.Sprintf("%s (%v)", indexList(list), b.Alg))
	}
	return strings.Join(words, ", ")
}

// shortDigest returns the beginning of a digest of the strongest common bank: the second
// one, if there are two, because the first is SHA-1.
func shortDigest(m *measurement) string {
	if len(m.Digests) == 0 {
		return "without a digest"
	}
	d := m.Digests[0]
	for _, e := range m.Digests {
		if e.Alg == ledger.SHA256 {
			d = e
		}
	}
	return fmt.Sprintf("%v %.16x…", d.Alg, d.Value)
}

// changedIndexes returns the PCRs and NV indexes that changes are about. Those at the end
// of the shorter boot are left out if one of the boots may not be complete.
func changedIndexes(all []change) []uint32 {
	var list []uint32
	for _, c := range all {
		if !c.Tail {
			list = append(list, c.Index)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// summary describes briefly what changed in a boot.
func (h *History) summary(b *Boot) string {
	a := h.Previous(b)
	tpm := h.tpmChange(b)
	if b.Damage != nil {
		return join("; ", tpm, "not compared") // notes says that the record is damaged
	}
	if a == nil {
		return "first recorded boot"
	}
	all := compare(a, b)
	if len(all) == 0 {
		if a.lacks() || b.lacks() {
			return join("; ", tpm, "no recorded change")
		}
		return join("; ", tpm, "nothing changed")
	}
	list := changedIndexes(all)
	var tails []uint32
	for _, c := range all {
		if c.Tail && !slices.Contains(list, c.Index) {
			tails = append(tails, c.Index)
		}
	}
	slices.Sort(tails)
	words := []string{}
	if tpm != "" {
		words = append(words, tpm)
	}
	if len(list) > 0 {
		words = append(words, "changed: "+indexList(list))
	}
	if tails = slices.Compact(tails); len(tails) > 0 {
		words = append(words, "longer or shorter: "+indexList(tails))
	}
	return strings.Join(words, "; ")
}

// policyText returns briefly the last result of each policy of a boot, and whether the policy
// succeeded before.
func policyText(b *Boot) string {
	type result struct {
		text, verb string
		opened     bool
	}
	var last []result
	for _, o := range b.Outcomes {
		if len(o.Banks) == 0 {
			continue
		}
		r := result{selectionText(o.Banks), "failed", o.Result == 0}
		switch o.Result {
		case 0:
			r.verb = "opened"
		case ledger.NotUsed:
			r.verb = "given up"
		}
		if i := slices.IndexFunc(last, func(x result) bool { return x.text == r.text }); i >= 0 {
			if last[i].opened && !r.opened {
				r.opened, r.verb = true, "opened, then "+r.verb
			}
			last = slices.Delete(last, i, i+1)
		}
		last = append(last, r)
	}
	var words []string
	if more := len(last) - mostPolicies; more > 0 { // the last ones count
		words = append(words, fmt.Sprintf("%d more secrets", more))
		last = last[more:]
	}
	for _, r := range last {
		words = append(words, "secret over "+r.text+": "+r.verb)
	}
	return strings.Join(words, "; ")
}

// resultText returns the result of a policy that failed.
func resultText(result uint32) string {
	if result == ledger.NotUsed {
		return "the guest did not use the session: it may have compared the policy itself"
	}
	if name := resultName(result); name != "" {
		return fmt.Sprintf("result %#x (%s)", result, name)
	}
	return fmt.Sprintf("result %#x", result)
}

// resultName returns the name of a result that a policy has, "" for another one.
//
// Source: TPM 2.0 Library Part 2, 6.6.3; TPM Main Part 2, 16.
func resultName(result uint32) string {
	if result&0x80 != 0 {
		result &= formatOne
	}
	return map[uint32]string{
		rcPolicyFail: "TPM_RC_POLICY_FAIL", rcValue: "TPM_RC_VALUE", rcPCRChanged: "TPM_RC_PCR_CHANGED",
		rcAuthFail: "TPM_RC_AUTH_FAIL", rcBadAuth: "TPM_RC_BAD_AUTH", rcWrongPCR12: "TPM_WRONGPCRVAL",
	}[result]
}

// afterLimit says that the record of a boot is not complete.
const afterLimit = "measurements after the limit are missing"

// notes returns what limits the record of a boot.
func notes(b *Boot) string {
	var words []string
	switch at := b.joinedAt(); {
	case at > 1:
		words = append(words, fmt.Sprintf("measurements before record %d are missing: that record has the values of the TPM", at))
	case b.Joined:
		words = append(words, "the beginning is not recorded: the TPM arrived with its values, and the ledger of the host that it came from has the beginning")
	}
	switch {
	case b.Incomplete(0):
		words = append(words, afterLimit+": the values of the PCRs are not known")
	case b.Missing > 0:
		words = append(words, fmt.Sprintf("%d records after the limit are missing", b.Missing))
	}
	switch {
	case b.Damage != nil:
		words = append(words, fmt.Sprintf("damaged: what follows record %d is not known", len(b.Records)))
	case !b.Ended:
		words = append(words, "not ended")
	}
	return strings.Join(words, "; ")
}

// joinedAt returns the number of the first record with values of the TPM that the records before it do not
// give, 0 if there is none.
func (b *Boot) joinedAt() int {
	return 1 + slices.IndexFunc(b.Records, func(r ledger.Record) bool {
		return r.Kind == ledger.KindValues && len(r.Body) > 0 && r.Body[0] == ledger.Joined
	})
}

// join joins the texts that are not empty.
func join(sep string, all ...string) string {
	return strings.Join(slices.DeleteFunc(all, func(s string) bool { return s == "" }), sep)
}

// quote returns s as a string of JSON.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(b)
}
