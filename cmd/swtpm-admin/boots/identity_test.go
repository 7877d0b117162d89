package boots

import (
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// of records a boot of the TPM with an identity.
func of(identity byte, number uint64, entries []eventlog.Entry) *recording {
	r := &recording{}
	r.file = r.w.AppendHeader(nil, ledger.Header{TPM: tpm.V20, Identity: [16]byte{identity}, Boot: number, Time: time.Unix(1700000000+int64(number)*1000, 0).UTC()})
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
