package fleet

import (
	"fmt"
	"strings"
)

// changed returns a text about the state that a TPM has lost between two samples, "" if it has lost
// nothing. PCRs may have changed, because the guest runs in the meantime.
func changed(before, after *TPM, a, b sample) string {
	var lost []string
	say := func(format string, args ...any) { lost = append(lost, fmt.Sprintf(format, args...)) }
	if before.Version != after.Version {
		say("it was a TPM %s and is a TPM %s", before.Version, after.Version)
	}
	if a.status && b.status {
		if a.On && !b.On {
			say("it was on and is off")
		}
		if a.Locality != b.Locality {
			say("its locality was %d and is %d", a.Locality, b.Locality)
		}
	}
	if a.pcrs && b.pcrs {
		if what := a.PCRs.Lost(b.PCRs); what != "" {
			say("%s", what)
		}
	}
	return strings.Join(lost, "; ")
}
