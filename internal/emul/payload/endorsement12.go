package payload

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// certIndex12 is the NV index with the certificate of a TPM 1.2's endorsement key,
// TPM_NV_INDEX_EKCert with the bit that says that the manufacturer defined it.
//
// Source: TPM Main, Part 2, 19.1.2.
const certIndex12 = 0x1000f000

// Endorsement12 is the public part of the endorsement key of a TPM 1.2, and its certificate.
type Endorsement12 struct {
	Modulus  []byte // big-endian; nil without a key
	Exponent []byte // big-endian
	Stored   []byte // the contents of the NV index of its certificate; nil if the index is missing
}

// EndorsementOf12 returns the endorsement key in payload, the permanent blob of a TPM 1.2. The
// TPM itself returns the key only to its owner. Once the NV memory is locked, it also returns the
// certificate only to its owner. EndorsementOf12 fails as Check does, and if a part of the blob
// has an unknown layout.
// The result is a copy.
func EndorsementOf12(payload []byte) (Endorsement12, error) {
	e := Endorsement12{}
	r := &reader{b: payload, found: &e}
	permanent12(r)
	if r.err == nil && r.newer {
		r.err = errors.New("a part of it has a newer layout than those known here")
	}
	if r.err != nil {
		return Endorsement12{}, fmt.Errorf("payload: TPM %v %v: %w: %w", tpm.V12, tpm.Permanent, ErrDamaged, r.err)
	}
	return Endorsement12{bytes.Clone(e.Modulus), bytes.Clone(e.Exponent), bytes.Clone(e.Stored)}, nil
}

// findKey records the endorsement key if EndorsementOf12 asks for it. An empty exponent means
// 65537.
func (r *reader) findKey(modulus, exponent []byte) {
	if r.found == nil || r.done() {
		return
	}
	if len(exponent) == 0 {
		exponent = []byte{1, 0, 1}
	}
	r.found.Modulus, r.found.Exponent = modulus, exponent
}

// findStored records the contents of an NV index if it is the index of the certificate.
func (r *reader) findStored(index uint32, contents []byte) {
	if r.found != nil && index == certIndex12 && !r.done() {
		r.found.Stored = contents
	}
}
