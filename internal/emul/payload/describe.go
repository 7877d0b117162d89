package payload

import (
	"encoding/json"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Summary describes the TPM of a permanent blob.
type Summary struct {
	Version uint16 // of the layout

	// The algorithm profile of a TPM 2.0. A TPM that was created without a profile has the
	// profile "null" and level 1, as does every TPM 2.0 of a libtpms before 0.10.
	Profile string // its name
	Level   int    // StateFormatLevel: the newest libtpms features that the state may use
}

// Describe returns the Summary of payload, a permanent blob of a TPM of version v. It fails as Check
// does. It does not use payload afterwards.
//
// Source: libtpms, src/tpm2/RuntimeProfile.c, for the JSON text of a profile.
func Describe(v tpm.Version, payload []byte) (Summary, error) {
	if err := Check(v, tpm.Permanent, payload); err != nil {
		return Summary{}, err
	}
	r := &reader{b: payload}
	if v == tpm.V12 {
		return Summary{Version: r.u16("the version of the blob")}, nil
	}
	s := Summary{Version: r.header(allHeader), Profile: "null", Level: 1}
	if s.Version < profileVersion || r.done() {
		return s, nil
	}
	n := r.u16("the length of the algorithm profile")
	text := r.take(int(n), "the algorithm profile")
	if len(text) > 0 && text[len(text)-1] == 0 { // the end of a C string
		text = text[:len(text)-1]
	}
	if len(text) == 0 {
		return s, nil
	}
	var p struct {
		Name             string
		StateFormatLevel int
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return Summary{}, fmt.Errorf("payload: TPM %v %v: %w: the algorithm profile: %w", v, tpm.Permanent, ErrDamaged, err)
	}
	s.Profile, s.Level = p.Name, p.StateFormatLevel
	return s, nil
}

// VersionOf returns the version of the TPM whose permanent blob payload is, and 0 if
// payload is the permanent blob of neither version.
func VersionOf(payload []byte) tpm.Version {
	for _, v := range []tpm.Version{tpm.V20, tpm.V12} {
		if Check(v, tpm.Permanent, payload) == nil {
			return v
		}
	}
	return 0
}
