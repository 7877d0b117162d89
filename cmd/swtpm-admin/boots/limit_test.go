package boots

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// overflow records that n measurements are missing; 0 is the mark at the limit.
func (r *recording) overflow(n uint64) *recording {
	r.add(ledger.KindOverflow, ledger.Overflow{Records: n}.Append(nil))
	return r
}

// summary records values.
func (r *recording) summary() *recording {
	r.add(ledger.KindValues, ledger.AppendValues(nil, ledger.Summary, initial()))
	return r
}

// TestIncomplete checks that no command prints values of PCRs or differences that a boot with missing
// measurements does not give.
func TestIncomplete(t *testing.T) {
	log := realLog(t)
	const mark = "measurements after the limit are missing"
	h := history(t, record(1, log).policy(0, 7).end(), record(2, log).overflow(0).policy(0x99d, 7))
	b, f := h.Boots[1], newFiles()
	yaml, warnings, err := f.Export(h, b, "yaml")
	if err != nil || len(warnings) != 1 || !strings.Contains(string(yaml), "incomplete: true") || !strings.HasSuffix(string(yaml), "pcrs:\n") {
		t.Errorf("%v, %q, %s", err, warnings, yaml)
	}
	if _, _, err := f.Export(h, b, "tcg2"); err == nil || !strings.Contains(err.Error(), mark) {
		t.Error(err)
	}
	for name, text := range map[string]string{
		"list": h.List().Text(), "show": f.Show(h, b).Text(), "diff": f.Diff(h, h.Boots[0], b).Text(), "explain": f.Explain(h, nil).Text(),
	} {
		for _, never := range []string{"sha256 PCR 7:", "nothing changed", "The PCRs have the values", "the same value", "seal again"} {
			if strings.Contains(text, never) {
				t.Errorf("%s: %q is in:\n%s", name, never, text)
			}
		}
		if !strings.Contains(text, mark) {
			t.Errorf("%s: %q is missing in:\n%s", name, mark, text)
		}
	}
	h = history(t, record(1, log).policy(0, 7).end(), record(2, log).overflow(0).overflow(5).summary().policy(0, 7))
	if text := h.List().Text(); !strings.Contains(text, "5 records after the limit are missing") || !strings.Contains(text, "no recorded change") || h.Boots[1].Incomplete(0) {
		t.Error(text)
	}
	if text := f.Explain(h, nil).Text(); !strings.Contains(text, "boot 2: "+mark) {
		t.Error(text)
	}
}

// TestFailuresAreBounded checks that the answers about a guest that uses thousands of policies stay short, and that
// the policy that succeeded before is in them.
func TestFailuresAreBounded(t *testing.T) {
	const hostile = 3000
	log := realLog(t)
	// others uses policies over PCR 8 to 23, none of which succeeds.
	others := func(r *recording, from, n int) {
		for i := from; i < from+n; i++ {
			var all []int
			for pcr := range 12 {
				if (i+1)>>pcr&1 != 0 {
					all = append(all, 8+pcr)
				}
			}
			r.policy(0x99d, all...)
		}
	}
	first, second := record(1, log).policy(0, 7).end(), record(2, replaced(log, 3, []byte{1}))
	others(second, 0, hostile)
	second.policy(0x99d, 7)
	others(second, hostile, 10)
	h := history(t, first, second.end())
	e := newFiles().Explain(h, nil)
	text := e.Text()
	if len(e.Failures) != mostPolicies || e.More != hostile+10+1-mostPolicies || !strings.Contains(text, "And 2979 more failures: swtpm boots show") {
		t.Errorf("%d failures, %d more", len(e.Failures), e.More)
	}
	if n := strings.Count(text, "Unsealing over"); n != mostPolicies || !strings.Contains(text, "Unsealing over PCR 7 (sha256) has failed since boot 2") {
		t.Errorf("%d failures in:\n%.3000s", n, text)
	}
	if list := h.List().Text(); len(list) > 8<<10 || !strings.Contains(list, "2979 more secrets; ") || !strings.Contains(list, "secret over PCR 7 (sha256): failed") {
		t.Errorf("%d bytes: %.3000s", len(list), list)
	}
}

// TestIndexesAreBounded checks that the answers about a guest that extends thousands of NV indexes stay short, as text
// and as JSON, and that the PCR that changed is in them.
func TestIndexesAreBounded(t *testing.T) {
	const hostile = 3000
	log := realLog(t)
	extend := func(r *recording, from uint32, value byte) {
		for i := range uint32(hostile) {
			r.extend(from+i, []ledger.Digest{{Alg: ledger.SHA256, Value: bytes.Repeat([]byte{value}, 32)}})
		}
	}
	first, second := record(1, log), record(2, replaced(log, 3, []byte{1}))
	extend(first, 0x1000000, 1)
	extend(second, 0x1000000, 2) // changed
	extend(second, 0x1000000, 2) // a second change in each
	extend(second, 0x1800000, 1) // added
	h := history(t, first.end(), second.end())
	list, e := h.List(), newFiles().Explain(h, nil)
	pcr := log[3].Index
	if b := list.Boots[1]; len(b.Changed) != mostIndexes || b.Changed[0] != pcr || b.More != hostile+1-mostIndexes {
		t.Errorf("changed %v and %d more", b.Changed, b.More)
	}
	if len(e.Changes) != mostIndexes || e.Changes[0].Index != pcr || e.Changes[1].More != 1 || e.Indexes != 2*hostile+1-mostIndexes {
		t.Errorf("%d changes and %d more", len(e.Changes), e.Indexes)
	}
	for name, answer := range map[string]interface{ Text() string }{"list": list, "explain": e} {
		text := answer.Text()
		for _, part := range []string{fmt.Sprintf("changed: PCR %d, NV 0x1000000, ", pcr), "NV 0x100001e and 2969 more; ", "NV 0x180001f and 2968 more"} {
			if len(text) > 16<<10 || !strings.Contains(text, part) {
				t.Errorf("%s: %d bytes, looked for %q: %.3000s", name, len(text), part, text)
			}
		}
		if j, err := json.Marshal(answer); err != nil || len(j) > 32<<10 {
			t.Errorf("%s: %d bytes of JSON, %v", name, len(j), err)
		}
	}
	if text := e.Text(); !strings.Contains(text, "And changes in 5969 more of the NV indexes: swtpm boots diff") || strings.Count(text, "1 more change in NV index") != mostIndexes-1 {
		t.Error(text)
	}
}

// TestJoinedLater checks what is said about a boot whose beginning is recorded, and that lacks a later
// measurement, such as one in a transport session of a TPM 1.2.
func TestJoinedLater(t *testing.T) {
	r := record(1, realLog(t))
	r.add(ledger.KindValues, ledger.AppendValues(nil, ledger.Joined, initial()))
	h := history(t, r.end())
	if text := h.List().Text(); !strings.Contains(text, "measurements before record 38 are missing") || strings.Contains(text, "the beginning") {
		t.Error(text)
	}
	if _, _, err := newFiles().Export(h, h.Boots[0], "tcg2"); err == nil || !strings.Contains(err.Error(), "measurements before record 38 are missing") {
		t.Error(err)
	}
}
