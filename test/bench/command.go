package main

import (
	"encoding/binary"
	"fmt"
)

// The commands below use a counter that we define, and the PCR for debugging, which any
// caller may extend.
const (
	counter  = 0x01500001
	debugPCR = 16
)

// request is something that a client sends. The answer has at offset result a
// big-endian u32 that is 0 if all is well.
type request struct {
	name    string
	bytes   []byte
	control bool // goes to the control socket
	result  int
}

// Tags and codes of TPM 2.0, Part 2; the parameters are those of Part 3.
const (
	noSessions = 0x8001
	sessions   = 0x8002

	nvDefineSpace = 0x12a
	nvIncrement   = 0x134
	getCapability = 0x17a
	getRandom     = 0x17b
	pcrRead       = 0x17e
	pcrExtend     = 0x182

	owner  = 0x40000001
	sha256 = 0x000b

	tpmProperties = 6
	ptFixed       = 0x100

	// TPMA_NV: owner reads and writes, the index' password too, no dictionary
	// attack protection, type counter.
	counterAttributes = 1<<1 | 1<<2 | 1<<17 | 1<<18 | 1<<25 | 1<<4
)

// password is an authorization area with an empty password: its size, then
// TPM_RS_PW, an empty nonce, no attributes, an empty password.
var password = struct {
	Size    uint32
	Session uint32
	Nonce   uint16
	Attr    uint8
	Auth    uint16
}{9, 0x40000009, 0, 0, 0}

var (
	defineCounter = command("NV_DefineSpace", sessions, nvDefineSpace, uint32(owner), password,
		uint16(0),                 // password of the index
		uint16(14),                // size of what follows
		uint32(counter),           // TPMS_NV_PUBLIC
		uint16(sha256),            //
		uint32(counterAttributes), //
		uint16(0),                 // policy
		uint16(8))                 // size of the counter

	random    = command("GetRandom(16)", noSessions, getRandom, uint16(16))
	increment = command("NV_Increment", sessions, nvIncrement, uint32(counter), uint32(counter), password)

	extend = command("PCR_Extend", sessions, pcrExtend, uint32(debugPCR), password, uint32(1), uint16(sha256), [32]byte{1})

	// plain commands change nothing on disk.
	plain = []request{
		command("GetCapability", noSessions, getCapability, uint32(tpmProperties), uint32(ptFixed), uint32(8)),
		random,
		extend,
		command("PCR_Read", noSessions, pcrRead, uint32(1), uint16(sha256), uint8(3), [3]byte{debugPCR / 8: 1 << (debugPCR % 8)}),
	}

	// requests of the control channel are their code.
	controls = []request{
		{name: "control: GET_CAPABILITY", bytes: []byte{0, 0, 0, 1}, control: true},
		{name: "control: GET_CONFIG", bytes: []byte{0, 0, 0, 15}, control: true},
	}
)

// command builds a command: tag, size, code, then the parameters in big-endian.
func command(name string, tag uint16, code uint32, params ...any) request {
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, code)
	for _, p := range params {
		var err error
		if b, err = binary.Append(b, binary.BigEndian, p); err != nil {
			panic(fmt.Sprintf("%s: %v", name, err)) // a parameter without a size: our mistake
		}
	}
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
	return request{name: name, bytes: b, result: 6}
}
