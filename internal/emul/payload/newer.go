package payload

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// levels lists versions of libtpms, and for each of them the highest level of an algorithm
// profile that it knows.
//
// Source: libtpms, src/tpm2/RuntimeProfile.c; 0.11 is its development head.
var levels = []struct {
	level   int
	library string
}{{7, "0.10"}, {8, "0.11"}} // earlier versions know level 1 only

// Needs returns which version of libtpms the permanent blob payload of a TPM of version v needs,
// and why, if library, the version that is in use, is too old for it; otherwise "". library is ""
// if the version is not known. Needs does not use payload afterwards.
func Needs(v tpm.Version, payload []byte, library string) string {
	if v != tpm.V20 {
		return "" // libtpms has not changed the layout of a TPM 1.2 since 0.6
	}
	r := &reader{b: payload}
	permanent20(r)
	if r.err != nil {
		return ""
	}
	s, err := Describe(v, payload)
	if err != nil {
		return ""
	}
	if s.Version > allHeader.newest && r.newer {
		if library == "" {
			library = "this one"
		}
		return fmt.Sprintf("a libtpms newer than %s: %s", library, r.needs)
	}
	if newest := levels[len(levels)-1]; s.Level > newest.level {
		return fmt.Sprintf("a libtpms newer than %s: the algorithm profile %q of the state has level %d", newest.library, s.Profile, s.Level)
	}
	for _, l := range levels {
		if s.Level <= l.level {
			if s.Level > 1 && older(library, l.library) {
				return fmt.Sprintf("libtpms %s or newer: the algorithm profile %q of the state has level %d", l.library, s.Profile, s.Level)
			}
			break
		}
	}
	return ""
}

// older reports whether version a, for example "0.9.2", comes before b. An unknown version a
// comes before every other.
func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range y {
		n := -1
		if i < len(x) {
			if v, err := strconv.Atoi(x[i]); err == nil {
				n = v
			}
		}
		if m, err := strconv.Atoi(y[i]); err != nil || n != m {
			return n < m
		}
	}
	return false
}
