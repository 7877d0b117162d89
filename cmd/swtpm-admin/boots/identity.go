package boots

import (
	"fmt"
	"strings"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// otherTPM says that the last boot used another TPM than earlier boots, for example because a lost
// state was replaced by a new TPM.
type otherTPM struct {
	Boot   uint64 `json:"boot"`             // the first one with the new identity
	Before uint64 `json:"former_tpm_boot"`  // the last one with another identity
	Former string `json:"former_identity"`  // identity of the TPM of boot Before
	Opened bool   `json:"opened,omitempty"` // a secret has opened since then, so it was enrolled again
}

// unknownTPM says that it is not known whether the last boot used the TPM of earlier boots, because boots
// in between found a state that another program, such as swtpm, had stored.
type unknownTPM struct {
	Gaps   []gap `json:"gaps"`
	Opened bool  `json:"opened,omitempty"` // a secret has opened since the last gap
}

// gap is a boot that found such a state.
type gap struct {
	Boot   uint64 `json:"boot"`
	Before uint64 `json:"boot_before"` // of what may be the same TPM
}

// relation says whether two boots used the same TPM.
type relation uint8

const (
	same     relation = iota // or an identity is zeros, which is not known
	afterGap                 // the later identity began because another program had stored the state
	other
)

// relation returns the relation of two boots. An identity after a gap may continue each earlier one,
// and no later one.
func (h *History) relation(a, b *Boot) relation {
	var none [16]byte
	if a.Identity == b.Identity || a.Identity == none || b.Identity == none {
		return same
	}
	later := b.Identity
	if h.first(a.Identity) > h.first(b.Identity) {
		later = a.Identity
	}
	if ledger.AfterGap(later) {
		return afterGap
	}
	return other
}

// sameTPM reports whether two boots may be of the same TPM.
func (h *History) sameTPM(a, b *Boot) bool { return h.relation(a, b) != other }

// first returns the index of the first boot with an identity.
func (h *History) first(identity [16]byte) int {
	for i, b := range h.Boots {
		if b.Identity == identity {
			return i
		}
	}
	return len(h.Boots)
}

// unknownTPM returns the gaps since which the TPM of the last boot is not known to be the TPM of the first
// boots, nil if there are none.
func (h *History) unknownTPM() *unknownTPM {
	last := h.Boots[len(h.Boots)-1]
	var none [16]byte
	var before *Boot
	u := &unknownTPM{}
	for i, b := range h.Boots {
		if b.Identity == none || !h.sameTPM(b, last) {
			continue
		}
		if before == nil && b.Identity == last.Identity {
			return nil
		}
		if before != nil && h.first(b.Identity) == i && ledger.AfterGap(b.Identity) {
			u.Gaps, u.Opened = append(u.Gaps, gap{b.Boot.Boot, before.Boot.Boot}), false
		}
		before = b
		u.Opened = u.Opened || opened(b)
	}
	if len(u.Gaps) == 0 {
		return nil
	}
	return u
}

// otherTPM returns how the TPM of the last boot began, nil if the first boots are of this TPM, too.
func (h *History) otherTPM() *otherTPM {
	last := h.Boots[len(h.Boots)-1]
	var before *Boot
	for _, b := range h.Boots {
		if !h.sameTPM(b, last) {
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
	var last, former *Boot
	for _, a := range h.Boots {
		if a == b {
			break
		}
		last = a
		if a.Identity == b.Identity {
			former = a
		}
	}
	if last == nil {
		return ""
	}
	switch r := h.relation(last, b); {
	case r == same:
		return ""
	case former != nil:
		return fmt.Sprintf("the TPM of boot %d again", former.Boot.Boot)
	case r == afterGap:
		return "another program had stored the state: " + notKnown
	}
	return "another TPM (new identity)"
}

// notKnown is the end of statements about boots with a gap between them.
const notKnown = "whether it is the same TPM is not known"

// identityChange returns a text about the identities of two boots, "" if they are the same or one is not known.
func (h *History) identityChange(a, b *Boot) string {
	text := fmt.Sprintf("identity of the TPM: was %x, is %x", a.Identity, b.Identity)
	switch h.relation(a, b) {
	case same:
		return ""
	case afterGap:
		return text + "; another program had stored the state, so " + notKnown
	}
	return text
}

// text returns u for people.
func (u *unknownTPM) text() string {
	var words []string
	for _, g := range u.Gaps {
		words = append(words, fmt.Sprint(g.Boot))
	}
	text := fmt.Sprintf("Another program (swtpm, or an older version of this one) had stored the state that boot %s found: %s.", strings.Join(words, ", "), notKnown)
	if u.Opened {
		return text + " A secret opened since.\n\n"
	}
	return text + ` The rest of this text assumes that it is.
To find out, compare the endorsement key with a former one, while the machine is off: swtpm state inspect --ek.

`
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
