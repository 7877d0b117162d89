package boots

import (
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// of records a boot of the TPM with an identity.
func of(identity byte, number uint64, entries []eventlog.Entry) *recording {
	return ofTPM([16]byte{identity}, number, entries)
}

func ofTPM(identity [16]byte, number uint64, entries []eventlog.Entry) *recording {
	r := &recording{}
	r.file = r.w.AppendHeader(nil, ledger.Header{TPM: tpm.V20, Identity: identity, Boot: number, Time: time.Unix(1700000000+int64(number)*1000, 0).UTC()})
	r.measure(entries)
	return r
}

// TestOtherTPM checks that explain and list say first that the last boot used another TPM, that explain
// does not advise to enrol then, and that neither says so without a reason.
func TestOtherTPM(t *testing.T) {
	log := realLog(t)
	changed := replaced(log, 3, []byte("x"))
	const first = "Boot 3 used another TPM (new identity): the keys of the guest are not in it. Stop the machine, restore the state of the TPM of boot 2 (identity 01"
	const again = "Boot 3 used another TPM (new identity): the keys of the guest are not in it. A secret opened since"
	good := of(1, 1, log).policy(0, 7).end()
	failed := of(1, 2, changed).policy(0x99d, 7).end()
	for name, tt := range map[string]struct {
		boots []*recording
		begin string // of explain; "" if it says nothing of another TPM
		list  string // of boot 3
		steps bool
	}{
		"lost state":               {[]*recording{good, of(1, 2, log).end(), of(2, 3, log).end()}, first, "another TPM (new identity); nothing changed", false},
		"lost after a failure":     {[]*recording{good, failed, of(2, 3, changed).end()}, first, "another TPM (new identity); nothing changed", false},
		"failure with the new one": {[]*recording{good, of(1, 2, log).end(), of(2, 3, changed).policy(0x99d, 7).end()}, first, "another TPM (new identity); changed: PCR 7", false},
		"not the last boot":        {[]*recording{good, failed, of(2, 3, log).end(), of(2, 4, log).end()}, first, "another TPM (new identity); changed: PCR 7", false},
		"enrolled again":           {[]*recording{good, failed, of(2, 3, log).policy(0, 7).end(), of(2, 4, changed).policy(0x99d, 7).end()}, again, "another TPM (new identity); changed: PCR 7", true},
		"restored":                 {[]*recording{good, of(2, 2, log).end(), of(1, 3, changed).policy(0x99d, 7).end()}, "", "the TPM of boot 1 again; changed: PCR 7", true},
		"unknown":                  {[]*recording{good, of(0, 2, log).end(), of(1, 3, changed).policy(0x99d, 7).end()}, "", "36 measurements; changed: PCR 7", true},
	} {
		t.Run(name, func(t *testing.T) {
			h := history(t, tt.boots...)
			text := newFiles().Explain(h, nil).Text()
			if !strings.HasPrefix(text, tt.begin) || tt.begin == "" && strings.Contains(text, "another TPM") {
				t.Errorf("want %q first, have:\n%s", tt.begin, text)
			}
			if steps := strings.Contains(text, "seal again") || strings.Contains(text, "cryptenroll") || strings.Contains(text, "enrol the TPM"); steps != tt.steps {
				t.Errorf("advice to enrol: %t, want %t, in:\n%s", steps, tt.steps, text)
			}
			if tt.begin == first && strings.Contains(text, "No policy over PCRs fails") {
				t.Error(text)
			}
			if list := strings.Split(h.List().Text(), "\n")[2]; !strings.Contains(list, strings.Replace(tt.list, "36 ", "35 ", 1)) {
				t.Errorf("list: %q, want %q", list, tt.list)
			}
		})
	}
}

// TestGap checks that list and explain say that the TPM is not known to be the same after another program
// had stored the state, that explain goes on as if it were the same, and that a new TPM is another one
// nevertheless.
func TestGap(t *testing.T) {
	log := realLog(t)
	changed := replaced(log, 3, []byte("x"))
	after, again := [16]byte(generation.NewIdentityAfterGap()), [16]byte(generation.NewIdentityAfterGap())
	good := of(1, 1, log).policy(0, 7).end()
	const (
		program   = "Another program (swtpm, or an older version of this one) had stored the state that boot 2 found"
		unknown   = program + ": whether it is the same TPM is not known. The rest of this text assumes"
		listed    = "another program had stored the state: whether it is the same TPM is not known; "
		listedNew = "another TPM (new identity); "
	)
	for name, tt := range map[string]struct {
		boots []*recording
		begin string // of explain
		list  string // of the last boot
		since string // of the failure; "" if there is none
	}{
		"nothing failed":        {[]*recording{good, ofTPM(after, 2, log).end()}, unknown, listed + "nothing changed", ""},
		"failed":                {[]*recording{good, ofTPM(after, 2, changed).policy(0x99d, 7).end()}, unknown, listed + "changed: PCR 7", "boot 2"},
		"failed later":          {[]*recording{good, ofTPM(after, 2, log).end(), ofTPM(after, 3, changed).policy(0x99d, 7).end()}, unknown, "measurements; changed: PCR 7", "boot 3"},
		"opened":                {[]*recording{good, ofTPM(after, 2, log).policy(0, 7).end()}, program + ": whether it is the same TPM is not known. A secret opened since.\n", listed + "nothing changed", ""},
		"twice":                 {[]*recording{good, ofTPM(after, 2, log).policy(0, 7).end(), ofTPM(again, 3, log).end()}, strings.Replace(program, "boot 2", "boot 2, 3", 1) + ": whether it is the same TPM is not known. The rest", listed + "nothing changed", ""},
		"former identity again": {[]*recording{good, ofTPM(after, 2, log).end(), of(1, 3, changed).policy(0x99d, 7).end()}, "Unsealing over PCR 7", "the TPM of boot 1 again; changed: PCR 7", "boot 3"},
		"later identity again":  {[]*recording{good, ofTPM(after, 2, log).end(), of(1, 3, log).end(), ofTPM(after, 4, log).end()}, unknown, "the TPM of boot 2 again; nothing changed", ""},
		"new TPM later":         {[]*recording{good, ofTPM(after, 2, log).end(), of(2, 3, log).end()}, "Boot 3 used another TPM", listedNew + "nothing changed", ""},
		"new TPM before":        {[]*recording{good, of(2, 2, log).end(), ofTPM(after, 3, log).end()}, strings.Replace(unknown, "boot 2", "boot 3", 1), listed + "nothing changed", ""},
		"first recorded":        {[]*recording{ofTPM(after, 1, log).policy(0, 7).end(), ofTPM(after, 2, log).end()}, "No failure is recorded", "measurements; nothing changed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := history(t, tt.boots...)
			text := newFiles().Explain(h, nil).Text()
			if !strings.HasPrefix(text, tt.begin) {
				t.Errorf("want %q first, have:\n%s", tt.begin, text)
			}
			if failed := strings.Contains(text, "has failed since"); failed != (tt.since != "") || failed && !strings.Contains(text, "has failed since "+tt.since) {
				t.Errorf("want a failure since %q, have:\n%s", tt.since, text)
			}
			if list := strings.TrimSpace(h.List().Text()); !strings.Contains(list[strings.LastIndex(list, "\n")+1:], tt.list) {
				t.Errorf("want %q last, have:\n%s", tt.list, list)
			}
		})
	}
}

// TestGapShown checks what show and diff say about a boot after a gap, of another TPM, and of an unknown TPM.
func TestGapShown(t *testing.T) {
	log := realLog(t)
	for name, tt := range map[string]struct {
		identity   [16]byte
		show, diff string
	}{
		"gap":     {generation.NewIdentityAfterGap(), "another program had stored the state: whether it is the same TPM is not known", "; another program had stored the state, so whether it is the same TPM is not known\n"},
		"another": {[16]byte{2}, "another TPM (new identity)", "Host: identity of the TPM: was 01000000000000000000000000000000, is 02000000000000000000000000000000\n"},
		"unknown": {[16]byte{}, "", "nothing changed"},
		"same":    {[16]byte{1}, "", "nothing changed"},
	} {
		t.Run(name, func(t *testing.T) {
			h := history(t, of(1, 1, log).end(), ofTPM(tt.identity, 2, log).end())
			if got := newFiles().Show(h, h.Boots[1]).Notes; got != tt.show {
				t.Errorf("show: %q, want %q", got, tt.show)
			}
			if text := newFiles().Diff(h, h.Boots[0], h.Boots[1]).Text(); !strings.Contains(text, tt.diff) {
				t.Errorf("diff: want %q, have:\n%s", tt.diff, text)
			}
		})
	}
}
