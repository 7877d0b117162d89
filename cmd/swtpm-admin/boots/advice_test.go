package boots

import (
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// TestEnrolAgain checks that explain recommends no literal values for PCRs that differ in the running
// system, or for a policy that is signed.
func TestEnrolAgain(t *testing.T) {
	log := realLog(t)
	changed := replaced(log, 3, []byte("x"))
	used := func(r *recording, result uint32, flags ledger.PolicyFlags, mask uint32) *recording {
		r.add(ledger.KindPolicy, ledger.Policy{Result: result, Code: 0x15e, Flags: flags, Banks: []ledger.Bank{{Alg: ledger.SHA256, Mask: mask}}}.Append(nil))
		return r
	}
	for name, tt := range map[string]struct {
		flags   ledger.PolicyFlags
		mask    uint32
		want    string
		literal bool
	}{
		"PCR 7":       {0, 1 << 7, "LUKS, PCR 7: systemd-cryptenroll --tpm2-device=auto --tpm2-pcrs=7 DEVICE", true},
		"PCR 4 and 7": {0, 1<<4 | 1<<7, "LUKS, PCR 4, 7: systemd-cryptenroll --tpm2-device=auto --tpm2-pcrs=4+7 DEVICE", true},
		"PCR 11":      {0, 1<<7 | 1<<11, "LUKS, PCR 7, 11: PCR 11 cannot be enrolled from the running system", false},
		"PCR 15":      {0, 1<<7 | 1<<15, "LUKS, PCR 7, 15: PCR 15 cannot be enrolled from the running system", false},
		"signed":      {ledger.Authorized, 1 << 7, "LUKS, PCR 7: the policy is signed: do not replace it", false},
		"pcrlock":     {ledger.AuthorizedNV, 1 << 7, "LUKS, PCR 7: the policy is in an NV index", false},
	} {
		h := history(t, used(record(1, log), 0, tt.flags, tt.mask).end(), used(record(2, changed), 0x99d, tt.flags, tt.mask).end())
		text := newFiles().Explain(h, nil).Text()
		if !strings.Contains(text, tt.want) || strings.Contains(text, "--tpm2-pcrs=") != tt.literal || !strings.Contains(text, "unprotected until") {
			t.Errorf("%s: %q is missing, or literal values are not %t, in:\n%s", name, tt.want, tt.literal, text)
		}
	}
}
