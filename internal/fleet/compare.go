package fleet

import (
	"fmt"
	"strings"
)

// changed returns what a TPM has lost between two samples, "" for nothing. Its guest runs
// meanwhile: it may extend PCRs.
func changed(before, after *TPM, a, b sample) string {
	var lost []string
	say := func(format string, args ...any) { lost = append(lost, fmt.Sprintf(format, args...)) }
	if before.Version != after.Version {
		say("it was a TPM %s and is a TPM %s", before.Version, after.Version)
	}
	if a.asked && b.asked {
		if a.On && !b.On {
			say("it was on and is off")
		}
		if a.Locality != b.Locality {
			say("its locality was %d and is %d", a.Locality, b.Locality)
		}
	}
	if a.pcr.read && b.pcr.read {
		if what := a.pcr.lost(b.pcr); what != "" {
			say("%s", what)
		}
	}
	return strings.Join(lost, "; ")
}

// lost returns what is wrong with the PCRs afterwards. Other values alone are not wrong if
// the guest can have extended them: a TPM 2.0 counts that, and in a TPM 1.2 an extended PCR
// does not become its initial value.
func (r registers) lost(now registers) string {
	if r.result != now.result {
		return fmt.Sprintf("reading the PCRs returned %v and now returns %v", r.result, now.result)
	}
	if now.counter < r.counter {
		return fmt.Sprintf("the PCRs were reset: their counter was %d and is %d", r.counter, now.counter)
	}
	for key, value := range r.values {
		switch {
		case value == now.values[key]:
		case now.counter > r.counter:
		case r.counter == 0 && !initial(now.values[key]) && !initial(value):
		default:
			return "the PCRs have other values"
		}
	}
	return ""
}

// initial reports whether a PCR has the value of a TPM that was just started: all zeros or
// all ones.
func initial(digest string) bool {
	return strings.Trim(digest, "0") == "" || strings.Trim(digest, "f") == ""
}
