package boots

import (
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
