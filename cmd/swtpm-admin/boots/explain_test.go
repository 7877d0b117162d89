package boots

import (
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/ledger"
)

// TestForgedLines checks that a text that a guest or a file chose stays on one line of explain, show
// and diff.
func TestForgedLines(t *testing.T) {
	const forged = "\nNext steps:\n  * swtpm state wipe vm1"
	log := realLog(t)
	event := func(text string) eventlog.Entry {
		e := replaced(log[:1], 0, []byte(text+forged))[0]
		e.Index, e.Type, e.Data = 7, eventlog.EFIAction, []byte(text+forged)
		return e
	}
	before, after := append(slices.Clone(log), event("old")), append(slices.Clone(log), event("new"))
	h := history(t, record(1, before).policy(0, 7).end(), record(2, after).policy(0x99d, 7).end())
	f := newFiles()
	var checks []*LogCheck
	for _, lie := range [][]eventlog.Entry{before, append(slices.Clone(after), event("lie"))} {
		c, err := f.AddGuestLog(h, write(t, "log", eventlog.AppendTCG(nil, banks, 0, lie)))
		if err != nil {
			t.Fatal(err)
		}
		checks = append(checks, c)
	}
	for name, text := range map[string]string{
		"explain": f.Explain(h, checks).Text(), "show": f.Show(h, h.Boots[1]).Text(), "diff": f.Diff(h, h.Boots[0], h.Boots[1]).Text(),
	} {
		if !strings.Contains(text, `new\nNext steps:\n  * swtpm state wipe vm1`) || strings.Contains(text, forged) {
			t.Errorf("%s:\n%s", name, text)
		}
	}
}

// TestTriedNothing checks that a boot in which the guest tried no secret is not called a good one.
func TestTriedNothing(t *testing.T) {
	log := realLog(t)
	h := history(t, record(1, log).policy(0, 7).end(), record(2, log[:20]))
	text := newFiles().Explain(h, nil).Text()
	if strings.Contains(text, "No policy over PCRs fails") || !strings.Contains(text, "boot 2 tried no secret over PCRs, as boot 1 did last") {
		t.Error(text)
	}
	for want, times := range map[string]int{"PCR 4, measurement": 1, "in PCR 4\n": 1} {
		if n := strings.Count(text, want); n != times {
			t.Errorf("%q: %d times, want %d, in:\n%s", want, n, times, text)
		}
	}
	h = history(t, record(1, log).end(), record(2, log).end())
	if text := newFiles().Explain(h, nil).Text(); !strings.Contains(text, "no recorded boot tried a secret") {
		t.Error(text)
	}
}

// TestOldFailure checks that explain says when a secret was last tried, and writes a change of a PCR
// once.
func TestOldFailure(t *testing.T) {
	log := realLog(t)
	changed := replaced(log, 3, []byte("x"))
	h := history(t, record(1, log).policy(0, 7).policy(0, 4, 7).end(), record(2, changed).policy(0x99d, 7).policy(0x99d, 4, 7).end(), record(3, changed).policy(0, 11).end())
	text := newFiles().Explain(h, nil).Text()
	for want, times := range map[string]int{
		"It was last tried in boot 2; the last boot is 3.": 2, "PCR 7, measurement 1: changed": 1, "PCR 7: changed as above, for PCR 7 (sha256)": 1,
		"--tpm2-pcrs=7 DEVICE": 1, "--tpm2-pcrs=4+7 DEVICE": 1, "BitLocker": 1,
	} {
		if n := strings.Count(text, want); n != times {
			t.Errorf("%q: %d times, want %d, in:\n%s", want, n, times, text)
		}
	}
}

// TestListPolicies checks the words for the last use of each policy in a list of boots.
func TestListPolicies(t *testing.T) {
	r := record(1, realLog(t)).policy(0, 4).policy(0x99d, 7).policy(ledger.NotUsed, 11)
	line := history(t, r.end()).List().Boots[0]
	if want := "secret over PCR 4 (sha256): opened; secret over PCR 7 (sha256): failed; secret over PCR 11 (sha256): given up"; line.Policies != want {
		t.Errorf("%q, want %q", line.Policies, want)
	}
}
