// Package ctrl is the control channel: requests that power a TPM on and off, set its
// locality, move its state blobs and so on. It has the table of all requests, the server
// of a socket, and the client of a socket or device. The TPM interface executes the
// requests.
//
// A request on a socket is a u32 code and a body; a reply is a body alone that begins with
// a u32 result; all integers are big-endian. On a device a request is an ioctl, see
// Request.Ioctl, and the integers are in the byte order of the machine.
package ctrl

import "github.com/swtpm-go/swtpm/internal/tpm"

// Code identifies a request.
//
// Source: swtpm, include/swtpm/tpm_ioctl.h, CMD_*.
type Code uint32

// The requests.
const (
	GetCapability       Code = 0x01
	Init                Code = 0x02
	Shutdown            Code = 0x03
	GetTPMEstablished   Code = 0x04
	SetLocality         Code = 0x05
	HashStart           Code = 0x06
	HashData            Code = 0x07
	HashEnd             Code = 0x08
	CancelTPMCmd        Code = 0x09
	StoreVolatile       Code = 0x0A
	ResetTPMEstablished Code = 0x0B
	GetStateBlob        Code = 0x0C
	SetStateBlob        Code = 0x0D
	Stop                Code = 0x0E
	GetConfig           Code = 0x0F
	SetDataFD           Code = 0x10
	SetBufferSize       Code = 0x11
	GetInfo             Code = 0x12
	LockStorage         Code = 0x13
)

// Capability is the set of requests that a server accepts, a bit each.
type Capability uint32

// The capabilities of a socket and of a device. SEND_COMMAND_HEADER, bit 15, exists for
// TPM 2.0 alone.
//
// Source: swtpm, include/swtpm/tpm_ioctl.h, PTM_CAP_*; cuse_tpm.c, PTM_GET_CAPABILITY.
const (
	Capabilities12 Capability = 0x17FFF
	Capabilities20 Capability = 0x1FFFF

	CapabilitiesDevice Capability = 0x16FFF // of either version
)

// InitFlags are the flags of INIT.
type InitFlags uint32

// InitDeleteVolatile deletes the stored volatile state once it is loaded.
const InitDeleteVolatile InitFlags = 1

// StateFlags are the flags of GET_STATEBLOB and SET_STATEBLOB.
type StateFlags uint32

// The state flags. Decrypted requests the inner layer in plain text; Encrypted means that
// the inner layer is encrypted with the file key.
const (
	Decrypted StateFlags = 1
	Encrypted StateFlags = 2
)

// ConfigFlags is the set of keys that GET_CONFIG reports.
type ConfigFlags uint32

// The keys that are configured.
const (
	HasFileKey      ConfigFlags = 1
	HasMigrationKey ConfigFlags = 2
)

// InitReq powers the TPM on.
type InitReq struct {
	Flags InitFlags
}

// LocalityReq is the body of SET_LOCALITY and RESET_TPMESTABLISHED. Three bytes
// of padding may follow it.
type LocalityReq struct {
	Locality tpm.Locality
}

// ResultRep is a reply without further fields.
type ResultRep struct {
	Result tpm.Result
}

// CapabilityRep reports the requests that the server accepts.
type CapabilityRep struct {
	Result tpm.Result
	Caps   Capability
}

// EstablishedRep reports the tpmEstablished bit.
//
//	off len field
//	  0   4 Result
//	  4   1 Bit     0 or 1
//	  5   3 padding
type EstablishedRep struct {
	Result tpm.Result
	Bit    uint8
	_      [3]uint8
}

// HashReq is followed by Length bytes that are to be hashed.
type HashReq struct {
	Length uint32
}

// GetStateReq requests one state blob.
//
//	off len field
//	  0   4 Flags   Decrypted
//	  4   4 Type    tpm.Permanent, Volatile, Savestate or SnapshotBlob
//	  8   4 Offset  bytes to skip
//
// Source: swtpm, include/swtpm/tpm_ioctl.h, struct ptm_getstate, u.req.
type GetStateReq struct {
	Flags  StateFlags
	Type   tpm.Blob
	Offset uint32
}

// GetStateRep is followed by Length bytes of the blob.
//
//	off len field
//	  0   4 Result
//	  4   4 Flags   Encrypted if the inner layer is
//	  8   4 Total   bytes from the offset to the end
//	 12   4 Length  bytes that follow; always Total on a socket
type GetStateRep struct {
	Result tpm.Result
	Flags  StateFlags
	Total  uint32
	Length uint32
}

// SetStateReq is followed by Length bytes of the blob.
type SetStateReq struct {
	Flags  StateFlags
	Type   tpm.Blob
	Length uint32
}

// ConfigRep reports the keys that are configured.
type ConfigRep struct {
	Result tpm.Result
	Flags  ConfigFlags
}

// BufferSizeReq requests a buffer size in bytes; 0 queries it.
type BufferSizeReq struct {
	Size uint32
}

// BufferSizeRep reports the current size and its limits, in bytes.
type BufferSizeRep struct {
	Result tpm.Result
	Size   uint32
	Min    uint32
	Max    uint32
}

// InfoReq requests a part of the text that describes the TPM.
//
//	off len field
//	  0   8 Flags   the parts of the TPM to describe, TPMLIB_INFO_*
//	  8   4 Offset  bytes to skip
//	 12   4 padding
type InfoReq struct {
	Flags  uint64
	Offset uint32
	_      uint32
}

// InfoRep is followed by Length bytes of text; the last part ends in a NUL.
type InfoRep struct {
	Result tpm.Result
	Total  uint32 // bytes of the whole text, with the NUL
	Length uint32 // bytes that follow, at most MaxInfo
}

// LockStorageReq requests the storage lock.
type LockStorageReq struct {
	Retries uint32 // 10 ms apart
}

// The largest pieces in bytes.
const (
	MaxInfo  = 3072      // of text in one InfoRep
	MaxBlob  = 512 << 10 // of a state blob that SET_STATEBLOB accepts
	MaxHash  = 4096      // of data in one HASH_DATA of a device
	MaxPiece = 3072      // of a state blob in one ioctl
)
