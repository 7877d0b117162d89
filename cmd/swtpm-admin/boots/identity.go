package boots

import "fmt"

// otherTPM says that the last boot used another TPM than earlier boots, for example because a lost
// state was replaced by a new TPM.
type otherTPM struct {
	Boot   uint64 `json:"boot"`             // the first one with the new identity
	Before uint64 `json:"former_tpm_boot"`  // the last one with another identity
	Former string `json:"former_identity"`  // identity of the TPM of boot Before
	Opened bool   `json:"opened,omitempty"` // a secret has opened since then, so it was enrolled again
}

// sameTPM reports whether two boots may be of the same TPM. An identity of zeros is not known.
func sameTPM(a, b *Boot) bool {
	var none [16]byte
	return a.Identity == b.Identity || a.Identity == none || b.Identity == none
}

// otherTPM returns how the TPM of the last boot began, nil if the first boots are of this TPM, too.
func (h *History) otherTPM() *otherTPM {
	last := h.Boots[len(h.Boots)-1]
	var before *Boot
	for _, b := range h.Boots {
		if !sameTPM(b, last) {
			before = b
			continue
		}
		if before == nil && b.Identity == last.Identity {
			return nil
		}
		if before == nil || b.Identity != last.Identity {
			continue
		}
		o := &otherTPM{Boot: b.Boot.Boot, Before: before.Boot.Boot, Former: fmt.Sprintf("%x", before.Identity)}
		for _, later := range h.Boots {
			o.Opened = o.Opened || later.Identity == last.Identity && opened(later)
		}
		return o
	}
	return nil
}

// opened reports whether a secret over PCRs opened in the boot.
func opened(b *Boot) bool {
	for _, o := range b.Outcomes {
		if o.Result == 0 && len(o.Banks) > 0 {
			return true
		}
	}
	return false
}

// tpmChange returns a text for a list about the TPM of a boot, "" if the boot before has the same
// TPM.
func (h *History) tpmChange(b *Boot) string {
	var last *Boot
	var same *Boot
	for _, a := range h.Boots {
		if a == b {
			break
		}
		last = a
		if a.Identity == b.Identity {
			same = a
		}
	}
	switch {
	case last == nil || sameTPM(last, b):
		return ""
	case same != nil:
		return fmt.Sprintf("the TPM of boot %d again", same.Boot.Boot)
	}
	return "another TPM (new identity)"
}

// text returns o for people.
func (o *otherTPM) text() string {
	text := fmt.Sprintf("Boot %d used another TPM (new identity): the keys of the guest are not in it.", o.Boot)
	if o.Opened {
		return text + " A secret opened since, so the guest was enrolled again.\n\n"
	}
	return text + fmt.Sprintf(` Stop the machine, restore the state of the TPM of boot %d (identity %s) from a backup,
and start the machine again. Do not enrol again.

`, o.Before, o.Former)
}
