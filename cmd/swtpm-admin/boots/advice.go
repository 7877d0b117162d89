package boots

import (
	"fmt"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// undo are the steps that restore the former values of PCRs.
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

// advice returns the next steps. No step destroys anything.
func (f *failedPolicy) advice() []string {
	all := []string{"A change is not an attack: updates of firmware, Secure Boot keys, boot loaders and kernels change the same PCRs. Find out first whether the change was planned."}
	if f.Opened {
		return append(all, "The secret opened in the boot that failed later: no new enrolment is needed for it. Many systems extend PCRs after they have opened the disk, so that later tries fail.")
	}
	changed := f.changed()
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
		"BitLocker: manage-bde -protectors -disable C: -RebootCount 1, then restart; the volume is unprotected until the protection is resumed, after that restart.",
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

// order contains the beginnings of steps, in the order in which the steps of several failures are
// sorted. Other steps come last.
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

// late are the PCRs that a system extends after its initrd has asked for the key: those of IMA, of
// the phases of the boot, of identities, and of applications.
//
// Source: UAPI Group, Linux TPM PCR Registry.
var late = []int{10, 11, 15, 16, 23}

// enrolAgain returns the step for a LUKS volume, which adds a token and removes none.
func (f *failedPolicy) enrolAgain() string {
	var all, lates []int
	for pcr := range ledger.PCRs {
		if !slices.ContainsFunc(f.Banks, func(b ledger.Bank) bool { return b.Has(pcr) }) {
			continue
		}
		all = append(all, pcr)
		if slices.Contains(late, pcr) {
			lates = append(lates, pcr)
		}
	}
	head := "LUKS, " + indexList(all) + ": "
	flags := f.Outcome.Flags
	if f.Good != nil {
		flags |= f.GoodAt.Flags
	}
	switch {
	case flags&ledger.AuthorizedNV != 0:
		return head + "the policy is in an NV index: update it with systemd-pcrlock make-policy in the guest, and do not replace it by the present values."
	case flags&(ledger.Authorized|ledger.Signed) != 0:
		return head + "the policy is signed: do not replace it by the present values. Start a kernel image that has a signature for its PCRs, or enrol again with the same --tpm2-public-key and --tpm2-public-key-pcrs."
	case slices.Contains(lates, 11):
		return head + indexList(lates) + " cannot be enrolled from the running system, because the initrd has other values. Enrol with a signed policy, which needs a key and a signed kernel image: systemd-cryptenroll --tpm2-device=auto --tpm2-public-key=FILE --tpm2-public-key-pcrs=11 DEVICE; the former token stays."
	case len(lates) > 0:
		return head + indexList(lates) + " cannot be enrolled from the running system, because the initrd has other values. Use a policy without it."
	}
	words := strings.ReplaceAll(strings.TrimPrefix(indexList(all), "PCR "), ", ", "+")
	return head + "systemd-cryptenroll --tpm2-device=auto --tpm2-pcrs=" + words + " DEVICE; the former token stays."
}
