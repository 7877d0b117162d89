// Package payload checks the state that libtpms serialises, before libtpms
// sees it again. State comes from a disk or from another machine; libtpms is C
// and trusts some of the counts, sizes and types in it. Check refuses what is
// damaged, so that the file stays untouched and the engine alive.
//
// What is decoded:
//
//   - TPM 1.2, all three blobs: every field to the last byte, and the SHA-1
//     that ends each blob;
//   - TPM 2.0 permanent: every field to the last byte;
//   - TPM 2.0 volatile: the header, and the SHA-1 that ends the blob. What is
//     between them is left to libtpms. Damage cannot pass; a blob that was made
//     by hand, with the right SHA-1, can.
//
// Not checked is what most fields mean: libtpms refuses or survives that.
// Exceptions are the few values that make libtpms 0.9.2 follow a null pointer
// or fail an assertion; the comments say where.
//
// What remains: a TPM 2.0 volatile blob made by hand, with the right SHA-1, can
// still crash libtpms 0.9.2 (of 2,994 that were tried, 15 did). The same must be
// expected of a TPM 2.0 permanent blob behind the first persistent key of a
// layout that is not known here; libtpms 0.9.2 refuses such keys, 0.10 and
// later read them.
//
// A structure whose version is newer than the ones known here is not refused
// for being new. libtpms appends the fields of a new version in a block that
// older readers skip, and names the oldest version that can still read the
// structure; both rules are followed. Behind a structure that says it cannot
// be read by a reader of the known version, nothing more is checked.
//
// The layouts were learnt from libtpms 0.9.2 (Debian's libtpms-dev), by
// following its functions over real state; each is cited where it is used.
// Versions of libtpms 0.10 and later were learnt from state that they wrote.
package payload

import (
	"errors"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// ErrDamaged is in the chain of every error of Check.
var ErrDamaged = errors.New("damaged or not such a blob")

// Check decodes payload as libtpms's state blob b of a TPM of version v and
// fails with an error that says what is wrong and at which offset in bytes.
// It takes time in proportion to len(payload) and allocates no copy of it.
// payload is not kept.
func Check(v tpm.Version, b tpm.Blob, payload []byte) error {
	check, ok := checks[kind{v, b}]
	if !ok {
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

// checks has the decoder of each blob that libtpms writes. A TPM 2.0 has no
// savestate: its TPM2_Shutdown writes into the permanent blob.
var checks = map[kind]func(*reader){
	{tpm.V12, tpm.Permanent}: permanent12,
	{tpm.V12, tpm.Volatile}:  volatile12,
	{tpm.V12, tpm.Savestate}: savestate12,
	{tpm.V20, tpm.Permanent}: permanent20,
	{tpm.V20, tpm.Volatile}:  volatile20,
}
