// Package payload checks the state that libtpms serializes, before libtpms gets it again. A state
// comes from a disk or from another machine, but libtpms is C and trusts some of the counts, sizes
// and types in it. Check refuses damaged states, so that the file stays unchanged and the engine
// does not crash.
//
// These parts are decoded:
//
//   - TPM 1.2, all three blobs: every field to the last byte, and the SHA-1
//     at the end of each blob;
//   - TPM 2.0 permanent: every field to the last byte;
//   - TPM 2.0 volatile: the header, and the SHA-1 at the end of the blob. libtpms alone decodes
//     the rest. Damage is found; a forged blob with the right SHA-1 is not.
//
// The meaning of most fields is not checked, because libtpms refuses or survives bad values. The
// exceptions are the few values that make libtpms 0.9.2 dereference a null pointer or fail an
// assertion; comments say where.
//
// Limits: a forged TPM 2.0 volatile blob with the right SHA-1 can still crash libtpms 0.9.2 (15 of
// 2,994 did). The same must be expected of a TPM 2.0 permanent blob after the first persistent key
// of an unknown layout; libtpms 0.9.2 refuses such keys, 0.10 and later read them.
//
// A structure is not refused because its version is newer than the known ones. libtpms appends the
// fields of a new version in a block that older readers skip, and names the oldest version that
// can read the structure; the reader here follows both rules. After a structure that a reader of
// the known version cannot read, nothing is checked.
//
// The layouts were found by following the functions of libtpms 0.9.2 (Debian's libtpms-dev) over
// real states; each is cited where it is used. Layouts of libtpms 0.10 and later were found from
// states that these versions wrote.
package payload

import (
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// ErrDamaged is wrapped by every error of Check.
var ErrDamaged = errors.New("damaged, or not a blob of this kind")

// Check decodes payload as libtpms's state blob b of a TPM of version v. Its error names the fault
// and its offset in bytes. Its time is proportional to len(payload). It makes no copy of payload
// and does not use it afterwards.
func Check(v tpm.Version, b tpm.Blob, payload []byte) error {
	check := decoder(kind{v, b})
	if check == nil {
		return fmt.Errorf("payload: a TPM %v has no %v blob", v, b)
	}
	r := &reader{b: payload}
	check(r)
	if r.err != nil {
		return fmt.Errorf("payload: TPM %v %v: %w: %w", v, b, ErrDamaged, r.err)
	}
	return nil
}

// kind is a blob of a TPM family.
type kind struct {
	version tpm.Version
	blob    tpm.Blob
}

// decoder returns the decoder of a blob that libtpms writes, nil if there is none. A TPM 2.0 has no
// savestate: its TPM2_Shutdown writes into the permanent blob.
func decoder(k kind) func(*reader) {
	switch k {
	case kind{tpm.V12, tpm.Permanent}:
		return permanent12
	case kind{tpm.V12, tpm.Volatile}:
		return volatile12
	case kind{tpm.V12, tpm.Savestate}:
		return savestate12
	case kind{tpm.V20, tpm.Permanent}:
		return permanent20
	case kind{tpm.V20, tpm.Volatile}:
		return volatile20
	}
	return nil
}
