package boots

import (
	"fmt"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// undo are the ways back for PCRs whose values changed.
var undo = []struct {
	pcrs []int
	text string
}{
	{[]int{0}, "start the machine with the former firmware file."},
	{[]int{1}, "restore the order of boot devices and the configuration of the machine."},
	{[]int{2, 3}, "give the machine its former devices; their option ROMs are measured."},
	{[]int{7}, "use a backup of the former variable store while the machine is off, and keep a copy of the present one."},
	{[]int{4, 5, 8, 9, 11, 12}, "select the former boot loader or kernel in the boot menu, or restore the former configuration."},
}

// Advice returns the next steps. No step destroys anything.
func (f *Failure) Advice() []string {
	all := []string{"A change is not an attack: updates of firmware, Secure Boot keys, boot loaders and kernels change the same PCRs. Find out first whether the change was planned."}
	changed := f.Changed()
	switch {
	case len(f.Banks) == 0:
		return append(all, "The TPM does not say which PCRs the key or NV area is bound to: compare this boot with an earlier one, swtpm boots diff.")
	case f.Good == nil:
		return append(all, "No boot in the ledger opened it; unlock with the recovery key and enrol the TPM in the guest, so that the next boots can be compared.")
	case f.Unknown:
		return append(all, "Compare this boot with an earlier one that is recorded completely: swtpm boots diff.")
	case len(changed) == 0:
		return append(all, "The PCRs have the values with which it opened before: look at the other conditions of the policy, such as a PIN, a counter or a signature.")
	}
	all = append(all, "If it was planned: boot, unlock with the recovery key, and seal again in the guest.")
	if f.Boot.TPM == tpm.V20 {
		all = append(all, f.enrolAgain())
	}
	all = append(all,
		"BitLocker: manage-bde -protectors -disable C: -RebootCount 1, then restart.",
		"Before the next planned change: suspend the protection in the guest, or enrol with a signed PCR policy.")
	for _, u := range undo {
		var which []string
		for _, pcr := range changed {
			if slices.Contains(u.pcrs, pcr) {
				which = append(which, fmt.Sprint(pcr))
			}
		}
		if len(which) > 0 {
			all = append(all, fmt.Sprintf("If it was not planned, or to undo it (PCR %s): %s", strings.Join(which, ", "), u.text))
		}
	}
	return all
}

// order is how the steps of several failures are sorted: by their beginnings. Others come last.
var order = []string{"A change", "If it was planned", "LUKS", "BitLocker", "Before"}

// sortSteps sorts the steps of several failures.
func sortSteps(all []string) {
	rank := func(s string) int {
		if i := slices.IndexFunc(order, func(begin string) bool { return strings.HasPrefix(s, begin) }); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(all, func(a, b string) int { return rank(a) - rank(b) })
}

// enrolAgain returns the step for a LUKS volume, which adds a token and removes none.
func (f *Failure) enrolAgain() string {
	var words []string
	for pcr := range ledger.PCRs {
		if slices.ContainsFunc(f.Banks, func(b ledger.Bank) bool { return b.Has(pcr) }) {
			words = append(words, fmt.Sprint(pcr))
		}
	}
	return fmt.Sprintf("LUKS, PCR %s: systemd-cryptenroll --tpm2-device=auto --tpm2-pcrs=%s DEVICE; the former token stays.", strings.Join(words, ", "), strings.Join(words, "+"))
}
