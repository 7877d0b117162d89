package boots

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// damagedHistory loads boots of which those in bad have two changed bytes at an offset from
// the end; 0 changes the header.
func damagedHistory(t *testing.T, bad map[uint64]int, all ...*recording) *History {
	t.Helper()
	dir := t.TempDir()
	for i, r := range all {
		n := uint64(i + 1)
		file := slices.Clone(r.file)
		if end, ok := bad[n]; ok {
			at := 10
			if end != 0 {
				at = len(file) - end
			}
			file[at] ^= 0xff
			file[at+1] ^= 0xff
		}
		if err := os.WriteFile(filepath.Join(dir, ledger.Name("tpm2-00", n)), file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h, err := Load(dir, "tpm2-00")
	if err != nil || len(h.Warnings) != len(bad) {
		t.Fatalf("%v, warnings %q, want %d", err, h.Warnings, len(bad))
	}
	return h
}

// TestExplainDamaged checks that a damaged record is not compared, and that explain does not
// claim that no policy fails.
func TestExplainDamaged(t *testing.T) {
	log := realLog(t)
	boots := func() []*recording {
		return []*recording{record(1, log).policy(0, 7).end(), record(2, replaced(log, 3, []byte{1})).policy(0x99d, 7).end(), record(3, log).end()}
	}
	whole := newFiles().Explain(damagedHistory(t, nil, boots()...), nil)
	if len(whole.Failures) != 1 || len(whole.Damaged) != 0 || len(whole.Unknown) != 0 {
		t.Fatalf("intact: %s", whole.Text())
	}
	for name, at := range map[string]int{"header": 0, "middle": len(boots()[1].file) / 2, "policy": 60} {
		h := damagedHistory(t, map[uint64]int{2: at}, boots()...)
		e := newFiles().Explain(h, nil)
		text := e.Text()
		b, err := json.Marshal(e)
		if len(e.Failures) != 0 || !slices.Equal(e.Unknown, []uint64{2}) || err != nil || !strings.Contains(string(b), `"unknown":[2]`) {
			t.Errorf("%s: %v, %+v", name, err, e)
		}
		if strings.Contains(text, "No policy over PCRs fails") || strings.Contains(text, "removed") || !strings.Contains(text, "It is not known whether") {
			t.Errorf("%s:\n%s", name, text)
		}
		l := h.List()
		if !slices.Equal(l.Damaged, []uint64{2}) || strings.Count(l.Text(), "damaged") == 0 || strings.Contains(l.Text(), "changed:") {
			t.Errorf("%s: list\n%s", name, l.Text())
		}
	}
}

// TestExplainDamagedLater checks that a policy of a later intact boot decides, and that a
// damaged last boot leaves the answer open.
func TestExplainDamagedLater(t *testing.T) {
	log := realLog(t)
	boots := []*recording{record(1, log).policy(0, 7).end(), record(2, log).policy(0, 7).end(), record(3, log).policy(0, 7).end()}
	e := newFiles().Explain(damagedHistory(t, map[uint64]int{2: 400}, boots...), nil)
	if len(e.Unknown) != 0 || !strings.Contains(e.Text(), "No policy over PCRs fails") || !strings.Contains(e.Text(), "The record of boot 2 is damaged") {
		t.Error(e.Text())
	}
	e = newFiles().Explain(damagedHistory(t, map[uint64]int{3: 400}, boots...), nil)
	if len(e.Unknown) != 1 || len(e.Changes) != 0 || strings.Contains(e.Text(), "removed") {
		t.Error(e.Text())
	}
}
