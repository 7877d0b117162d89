// Package ctrl speaks the control channel: requests that power a TPM on and
// off, set its locality, move its state blobs and so on. It has the server; the client of
// swtpm-ioctl and of tests is package client. The TPM interface executes the requests.
//
// All integers are big-endian. A request is a u32 code and a body, a reply is a
// body alone that begins with a u32 result.
package ctrl

import "github.com/swtpm-go/swtpm/internal/tpm"

// Code says what a request asks for.
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

// Capability is the set of requests that a server takes, a bit each.
type Capability uint32

// The capabilities of a socket. SEND_COMMAND_HEADER, bit 15, is for TPM 2.0
// alone.
//
// Source: swtpm, include/swtpm/tpm_ioctl.h, PTM_CAP_*.
const (
	Capabilities12 Capability = 0x17FFF
	Capabilities20 Capability = 0x1FFFF
)

// InitFlags are the flags of INIT.
type InitFlags uint32

// InitDeleteVolatile deletes the stored volatile state once it is loaded.
const InitDeleteVolatile InitFlags = 1

// StateFlags are the flags of GET_STATEBLOB and SET_STATEBLOB.
type StateFlags uint32

// The state flags: a client that asks for Decrypted gets the inner layer plain;
// Encrypted says that the inner layer is encrypted with the file key.
const (
	Decrypted StateFlags = 1
	Encrypted StateFlags = 2
)

// ConfigFlags is what GET_CONFIG tells.
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

// CapabilityRep tells what the server can do.
type CapabilityRep struct {
	Result tpm.Result
	Caps   Capability
}

// EstablishedRep tells the tpmEstablished bit.
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

// GetStateReq asks for one state blob.
//
//	off len field
//	  0   4 Flags   Decrypted
//	  4   4 Type    tpm.Permanent, Volatile or Savestate
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
//	 12   4 Length  bytes that follow; on a socket always Total
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

// ConfigRep tells which keys are configured.
type ConfigRep struct {
	Result tpm.Result
	Flags  ConfigFlags
}

// BufferSizeReq asks for a buffer size in bytes; 0 queries.
type BufferSizeReq struct {
	Size uint32
}

// BufferSizeRep tells the sizes in force, in bytes.
type BufferSizeRep struct {
	Result tpm.Result
	Size   uint32
	Min    uint32
	Max    uint32
}

// InfoReq asks for a part of the text that describes the TPM.
//
//	off len field
//	  0   8 Flags   what to describe, TPMLIB_INFO_*
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

// LockStorageReq asks for the storage lock.
type LockStorageReq struct {
	Retries uint32 // 10 ms apart
}

// MaxInfo is the most text that one InfoRep carries, in bytes.
const MaxInfo = 3072

// MaxBlob is the size in bytes of the largest state blob that SET_STATEBLOB
// takes.
const MaxBlob = 512 << 10
