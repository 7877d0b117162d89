package payload

import (
	"encoding/binary"
	"fmt"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// ResetLockout sets the number of failed authorizations in payload, a permanent blob of a
// TPM 2.0, to zero, as TPM2_DictionaryAttackLockReset does, and returns what it was and how
// many lock the TPM. Nothing else changes. It fails as Check does, and if libtpms has
// written the state in a layout that is not known here.
//
// Source: TPM 2.0 Library, Part 1, "Dictionary Attack Protection".
func ResetLockout(payload []byte) (failed, limit uint32, err error) {
	if err := Check(tpm.V20, tpm.Permanent, payload); err != nil {
		return 0, 0, err
	}
	p := &permanent{reader: &reader{b: payload}, inRAM: map[uint32]uint32{}}
	p.decode()
	if p.failedTries == 0 {
		return 0, 0, fmt.Errorf("payload: the layout of the permanent state is newer than this program (%s)", p.needs)
	}
	field := payload[p.failedTries:]
	failed, limit = binary.BigEndian.Uint32(field), binary.BigEndian.Uint32(field[4:])
	binary.BigEndian.PutUint32(field, 0)
	return failed, limit, nil
}
