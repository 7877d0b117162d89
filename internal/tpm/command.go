package tpm

import "encoding/binary"

// HeaderSize is the size in bytes of the header that every command and every
// response begins with: u16 tag, u32 size, u32 code, all big-endian.
//
// Source: TPM 2.0 Library, Part 1, "Command/Response Structure".
const HeaderSize = 10

// MaxCommand is the size in bytes of the largest command and response that every
// libtpms handles, TPM_BUFFER_MAX. The loaded libtpms may allow more, up to
// LargestCommand, which is our own limit.
const (
	MaxCommand     = 4096
	LargestCommand = 16 << 10
)

// PrefixSize is the size in bytes of the prefix that may stand before a TPM 2.0
// command, big-endian as the rest:
//
//	off len field
//	  0   4 8, TPM_SEND_COMMAND
//	  4   1 locality
//	  5   4 size of the command, ignored
//
// Its response begins with the response's size as u32 and ends in a u32 0.
//
// Source: TCG's TPM 2.0 simulator, TcpServer.c; swtpm, PTM_CAP_SEND_COMMAND_HEADER.
const PrefixSize = 9

// MaxMessage is the size in bytes of the longest message with a command of up to
// MaxCommand bytes: a prefix and the command.
const MaxMessage = PrefixSize + MaxCommand

// Prefixed reports whether the message that begins with b has a prefix. b needs at least
// HeaderSize bytes. No tag of a command looks like a prefix.
func Prefixed(v Version, b []byte) bool {
	return v == V20 && len(b) >= HeaderSize && binary.BigEndian.Uint32(b) == 8
}

// Code is a command code (TPM 2.0) or an ordinal (TPM 1.2).
type Code uint32

// The command codes that the emulator sends itself or must recognise.
const (
	TPM2Startup    Code = 0x144
	TPM2Shutdown   Code = 0x145
	TPM2StirRandom Code = 0x146
	TPM12Startup   Code = 0x99

	// VendorSetLocality comes from the kernel's vTPM proxy driver; byte 10
	// of the command is the locality.
	//
	// Source: Linux, drivers/char/tpm/tpm_vtpm_proxy.c, TPM2_CC_SET_LOCALITY.
	VendorSetLocality Code = 0x20001000
)

// The tags of commands and responses.
const (
	TagRqu12      = 0x00C1 // TPM_TAG_RQU_COMMAND
	TagRsp12      = 0x00C4 // TPM_TAG_RSP_COMMAND
	TagNoSessions = 0x8001 // TPM_ST_NO_SESSIONS
	TagSessions   = 0x8002 // TPM_ST_SESSIONS
)

// Header is the header of a command or a response.
//
//	off len field
//	  0   2 Tag
//	  2   4 Size  bytes with the header
//	  6   4 Code  command code; in a response the result
type Header struct {
	Tag  uint16
	Size uint32
	Code Code
}

// ParseHeader reads the header at the start of b; ok is false if b is shorter
// than HeaderSize.
func ParseHeader(b []byte) (h Header, ok bool) {
	if len(b) < HeaderSize {
		return Header{}, false
	}
	return Header{
		Tag:  binary.BigEndian.Uint16(b),
		Size: binary.BigEndian.Uint32(b[2:]),
		Code: Code(binary.BigEndian.Uint32(b[6:])),
	}, true
}

// ErrorResponse returns the 10-byte response with the result r, with the tag that
// clients of a TPM of version v expect.
func ErrorResponse(v Version, r Result) []byte {
	tag := uint16(TagNoSessions)
	if v == V12 {
		tag = TagRsp12
	}
	return message(tag, uint32(r))
}

// message returns a header with the given tag and code, followed by the fields, each of
// them a u16.
func message(tag uint16, code uint32, fields ...uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = binary.BigEndian.AppendUint32(b, uint32(HeaderSize+2*len(fields)))
	b = binary.BigEndian.AppendUint32(b, code)
	for _, f := range fields {
		b = binary.BigEndian.AppendUint16(b, f)
	}
	return b
}

// WithHandle returns a TPM 2.0 command without sessions that has a handle and nothing
// else, such as TPM2_ReadPublic.
func WithHandle(code Code, handle uint32) []byte {
	return message(TagNoSessions, uint32(code), uint16(handle>>16), uint16(handle))
}

// Startup returns TPM_Startup of a TPM 1.2 (typ 1 clear, 2 state, 3
// deactivated) or TPM2_Startup (typ 0 clear, 1 state).
func Startup(v Version, typ uint16) []byte {
	if v == V12 {
		return message(TagRqu12, uint32(TPM12Startup), typ)
	}
	return message(TagNoSessions, uint32(TPM2Startup), typ)
}

// Shutdown returns TPM2_Shutdown; typ is 0 for clear and 1 for state.
func Shutdown(typ uint16) []byte {
	return message(TagNoSessions, uint32(TPM2Shutdown), typ)
}

// StirRandom returns TPM2_StirRandom with entropy, at most 128 bytes.
func StirRandom(entropy []byte) []byte {
	b := message(TagNoSessions, uint32(TPM2StirRandom), uint16(len(entropy)))
	b = append(b, entropy...)
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
	return b
}
