package payload

import "strings"

// AlgorithmProfile returns the algorithm profile in b, the permanent blob of a TPM
// 2.0: JSON text, "" if there is none, as in all that libtpms before 0.10 wrote.
// It is for people who wonder why a libtpms does not take b.
func AlgorithmProfile(b []byte) string {
	r := &reader{b: b}
	if r.header(allHeader) < profileVersion || r.done() {
		return ""
	}
	n := r.u16("the length of the algorithm profile")
	text := r.take(int(n), "the algorithm profile")
	if r.err != nil {
		return ""
	}
	return strings.TrimRight(string(text), "\x00")
}
