package fuzzlive_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/test/harness"
)

// generator makes the bytes that a worker sends.
type generator struct {
	*rand.Rand
	v     version
	blobs [][]byte // state blobs that the TPM has given
}

// pick returns one of the values.
func pick[T any](g *generator, values ...T) T { return values[g.IntN(len(values))] }

// chance reports true in one of n cases.
func (g *generator) chance(n int) bool { return g.IntN(n) == 0 }

// bytes returns n random bytes, of which some are runs of zeros.
func (g *generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		if i%8 == 0 && g.chance(3) {
			continue
		}
		b[i] = byte(g.Uint32())
	}
	return b
}

// number returns a number that programs get wrong, or any.
func (g *generator) number() uint32 {
	return pick(g, 0, 1, 2, 9, 10, 11, 100, 3072, 4095, 4096, 4097, 4105, 65535, 512<<10, 512<<10+1, 1<<31-1, 1<<31, ^uint32(0), g.Uint32())
}

// mutate changes a few bytes, cuts b or extends it. Only the length shows whether the channel can
// still find its end.
func (g *generator) mutate(b []byte) []byte {
	b = slices.Clone(b)
	for range 1 + g.IntN(4) {
		switch {
		case len(b) == 0 || g.chance(8):
			b = append(b, g.bytes(g.IntN(64))...)
		case g.chance(6):
			b = b[:g.IntN(len(b))]
		case g.chance(2):
			b[g.IntN(len(b))] ^= 1 << g.IntN(8)
		default:
			b[g.IntN(len(b))] = byte(g.Uint32())
		}
	}
	return b
}

// Commands that a TPM carries out.
//
// Source: TPM Main Part 3; TPM 2.0 Library Part 3.
var good = map[version][]string{
	v12: {
		"00c1 0000000c 00000099 0001",                                // Startup
		"00c1 0000000a 00000050",                                     // SelfTestFull
		"00c1 0000000a 000000f1",                                     // GetTicks
		"00c1 0000000e 00000046 00000020",                            // GetRandom
		"00c1 00000016 00000065 00000005 00000004 00000103",          // GetCapability
		"00c1 0000000e 00000015 00000001",                            // PcrRead
		"00c1 0000000a 000000d4",                                     // an unknown one
		"00c1 0000000c 4000000a 0020",                                // PhysicalPresence
		"00c1 00000022 00000014 00000001" + strings.Repeat("5a", 20), // Extend
		"00c1 00000065 000000cc 0018 00001234 0003 000000 1f" + strings.Repeat("00", 20) +
			"0003 000000 1f" + strings.Repeat("00", 20) + "0017 00000002 00 00 00 00000008" + strings.Repeat("00", 20), // NV_DefineSpace
		"00c1 0000001e 000000cd 00001234 00000000 00000008 0102030405060708", // NV_WriteValue
		"00c1 00000016 000000cf 00001234 00000000 00000008",                  // NV_ReadValue
		"00c1 0000000a 00000098",                                             // SaveState
	},
	v20: {
		"8001 0000000c 00000144 0000",                       // Startup
		"8001 0000000c 00000145 0001",                       // Shutdown(STATE)
		"8001 0000000b 00000143 01",                         // SelfTest
		"8001 0000000c 0000017b 0020",                       // GetRandom
		"8001 00000016 0000017a 00000006 00000105 00000001", // GetCapability
		"8001 00000014 0000017e 00000001 000b 03 ffffff",    // PCR_Read
		"8002 00000041 00000182 00000001 00000009 40000009 0000 00 0000 00000001 000b" + strings.Repeat("5a", 32),   // PCR_Extend
		"8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01800001 000b 02060016 0000 0008", // NV_DefineSpace
		"8002 0000001f 00000134 01800001 01800001 00000009 40000009 0000 00 0000",                                   // NV_Increment
		"8002 00000023 0000014e 01800001 01800001 00000009 40000009 0000 00 0000 0008 0000",                         // NV_Read
		"8001 0000002b 00000176 40000007 40000007 0010" + strings.Repeat("11", 16) + "0000 00 0010 000b",            // StartAuthSession
		"8001 0000000e 00000165 02000000", // FlushContext
		"8001 0000000e 00000162 02000000", // ContextSave
		"8001 0000000e 00000186 0000000b", // HashSequenceStart, cut
		"8002 0000003f 00000131 40000001 00000009 40000009 0000 00 0000 0004 0000 0000 " +
			"0016 0008 000b 00000072 0000 0006 0080 0043 0010 0000 0000 00000000", // CreatePrimary of an AES key
		"8002 0000001b 00000126 4000000c 00000009 40000009 0000 00 0000", // Clear
	},
}

// command makes a command of the data channel. whole reports whether the channel finds its end.
func (g *generator) command() (b []byte, whole bool) {
	switch {
	case g.chance(3):
		b = harness.Unhex(pick(g, good[g.v]...))
	case g.chance(8):
		return g.bytes(g.IntN(5000)), false
	default:
		b = g.structured()
	}
	if g.chance(4) {
		return g.mutate(b), false
	}
	if g.v == v20 && g.chance(6) { // with a locality before it
		prefix := append(binary.BigEndian.AppendUint32(nil, 8), byte(pick(g, 0, 1, 2, 3, 4, 5, 255)))
		b = append(binary.BigEndian.AppendUint32(prefix, uint32(len(b))), b...)
	}
	return b, true
}

// structured makes a command of any code with any parameters, and mostly a proper
// size.
func (g *generator) structured() []byte {
	tag, code := pick[uint16](g, 0x8001, 0x8002), 0x11f+g.Uint32N(0x19c-0x11f+2)
	if g.v == v12 {
		tag, code = pick[uint16](g, 0xc1, 0xc2, 0xc3), g.Uint32N(0x100)
	}
	if g.chance(8) {
		code = pick(g, 0x20000000, 0x20000001, 0x4000000a, 0x4000000b, g.Uint32())
	}
	var params []byte
	for range g.IntN(4) { // handles
		params = binary.BigEndian.AppendUint32(params, pick(g, 0x40000001, 0x40000007, 0x4000000c, 0x01800001, 0x02000000, 0x80000000, 0x81000001, 0x00000010, g.Uint32()))
	}
	if tag == 0x8002 {
		params = append(params, harness.Unhex("00000009 40000009 0000 00 0000")...)
	}
	params = append(params, g.bytes(pick(g, 0, 2, 4, 20, 64, g.IntN(512), g.IntN(4096)))...)
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = binary.BigEndian.AppendUint32(b, uint32(10+len(params)))
	return append(binary.BigEndian.AppendUint32(b, code), params...)
}

// Codes of the control channel.
const (
	cmdInit         = 0x02
	cmdShutdown     = 0x03
	cmdSetLocality  = 0x05
	cmdHashData     = 0x07
	cmdReset        = 0x0b
	cmdGetStateBlob = 0x0c
	cmdSetStateBlob = 0x0d
	cmdSetDataFD    = 0x10
	cmdBufferSize   = 0x11
	cmdGetInfo      = 0x12
	cmdLockStorage  = 0x13
)

// request makes a request of the control channel. It never is SHUTDOWN, which ends
// the emulator.
func (g *generator) request() (b []byte, whole bool) {
	code := 1 + g.Uint32N(0x13)
	if code == cmdInit && !g.chance(4) {
		code = cmdSetDataFD // a TPM that is started all the time does nothing else
	}
	if g.chance(12) {
		code = pick(g, 0, 0x14, 0x1400, 0x8001, g.Uint32())
	}
	body, whole := g.body(code)
	b = append(binary.BigEndian.AppendUint32(nil, code), body...)
	if g.chance(6) {
		b, whole = g.mutate(b), false
	}
	if len(b) >= 4 && binary.BigEndian.Uint32(b) == cmdShutdown {
		b[3] = 1
	}
	return b, whole
}

// body makes the body of a request.
func (g *generator) body(code uint32) (b []byte, whole bool) {
	numbers := func(n ...uint32) []byte {
		for _, x := range n {
			b = binary.BigEndian.AppendUint32(b, x)
		}
		return b
	}
	kind := pick(g, 0, 1, 2, 3, 4, g.Uint32())
	switch code {
	case cmdInit:
		return numbers(pick(g, 0, 1, 2, g.Uint32())), true
	case cmdSetLocality, cmdReset:
		return append([]byte{byte(pick(g, 0, 1, 2, 3, 4, 5, 255))}, g.bytes(pick(g, 0, 3))...), true
	case cmdHashData:
		return g.announced(numbers(), g.bytes(pick(g, 0, 1, 20, 4096, 4097, g.IntN(20000))))
	case cmdGetStateBlob:
		return numbers(pick(g, 0, 1, 2, g.Uint32()), kind, pick(g, 0, 0, 1, 100, g.number())), true
	case cmdSetStateBlob:
		blob := pick(g, nil, g.bytes(g.IntN(2000)))
		if len(g.blobs) > 0 && !g.chance(3) {
			if blob = slices.Clone(pick(g, g.blobs...)); !g.chance(3) {
				blob = g.mutate(blob)
			}
		}
		return g.announced(numbers(pick(g, 0, 1, 2, 3, g.Uint32()), kind), blob)
	case cmdBufferSize, cmdLockStorage:
		return numbers(g.number()), true
	case cmdGetInfo:
		return numbers(0, pick(g, 0, 1, 0xff, g.Uint32()), pick(g, 0, 1, g.number()), 0), true
	}
	return nil, true
}

// announced appends b with its length, or another one.
func (g *generator) announced(head, b []byte) (all []byte, whole bool) {
	n, whole := uint32(len(b)), true
	if g.chance(5) {
		n, whole = g.number(), false
	}
	return append(binary.BigEndian.AppendUint32(head, n), b...), whole
}
