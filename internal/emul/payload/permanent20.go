package payload

const (
	typeNVIndex    = 0x01 // the first byte of a handle
	typePersistent = 0x81
	nvOrderly      = 1 << 26 // TPMA_NV_ORDERLY: the contents are in RAM
	stateSaved     = 1       // TPM_SU_STATE in orderlyState
	orderlyBits    = 0x3fff  // without the two marks on top
	profileVersion = 4       // the permanent state has a profile
	savedVersion   = 3       // and saved data only if there is some
)

// permanent20 decodes the permanent blob of a TPM 2.0:
//
//	header | algorithm profile | compile-time constants | permanent data |
//	orderly data | data until reset and clear | orderly NV indices |
//	NV memory | block | u32 magic
//
// Source: libtpms, src/tpm2/NVMarshal.c, PERSISTENT_ALL_Unmarshal.
func permanent20(r *reader) { (&permanent{reader: r, inRAM: map[uint32]uint32{}}).decode() }

func (p *permanent) decode() {
	version := p.header(allHeader)
	if version >= profileVersion {
		p.array20(1, "the algorithm profile")
	}
	p.constants()
	p.data()
	p.orderly()
	if version < savedVersion || p.orderlyState&orderlyBits == stateSaved {
		p.untilReset()
		p.untilClear()
	}
	p.orderlyRAM()
	p.nvram()
	p.tail(version)
	if m := p.u32("the magic at the end"); m != allHeader.magic {
		p.failAt(p.off-4, "the magic at the end is 0x%08x, not 0x%08x", m, allHeader.magic)
	}
	p.end()
}

// permanent is a permanent blob that is being decoded.
type permanent struct {
	*reader
	hashes       map[uint16]bool // that the writer supported; nil for any
	failedTries  int             // where the number of failed authorizations is
	orderlyState uint16
	inRAM        map[uint32]uint32 // handle → bytes of an orderly NV index
}

// hashConstants are the compile-time constants that show which hashes the writer supported, by their
// index in the list.
//
// Source: libtpms, src/tpm2/NVMarshal.c; the names are in its messages.
var hashConstants = [...]uint16{
	1: 0x0004, 8: 0x000b, 9: 0x000c, 10: 0x000d, 11: 0x0012, // SHA-1, SHA-256, -384, -512, SM3
	95: 0x0027, 96: 0x0028, 97: 0x0029, // SHA3-256, -384, -512
}

const algNull20 = 0x0010

// constants decodes the numbers with which libtpms was compiled. libtpms
// compares them with its own.
//
// Source: libtpms, src/tpm2/NVMarshal.c, PACompileConstants_Unmarshal.
func (p *permanent) constants() {
	version := p.header(constantsHeader)
	p.hashes = map[uint16]bool{algNull20: true}
	for i := range p.count(p.u32("the number of constants"), 4, "constants") {
		if v := p.u32("a constant"); v != 0 && i < len(hashConstants) && hashConstants[i] != 0 {
			p.hashes[hashConstants[i]] = true
		}
	}
	p.tail(version)
}

// data decodes PERSISTENT_DATA.
//
// Source: libtpms, src/tpm2/NVMarshal.c, PERSISTENT_DATA_Unmarshal.
func (p *permanent) data() {
	version := p.header(dataHeader)
	p.u8("disableClear")
	p.skip(3*2, "the hashes of the policies")
	p.buffers20(3, "the policy of a hierarchy")
	p.buffers20(3, "the secret of a hierarchy")
	p.buffers20(6, "a seed or a proof")
	p.skip(8+4, "totalResetCount and resetCount")
	p.block(func() {
		v := p.header(pcrPolicyHeader)
		n := int(p.u16("the number of PCR policies"))
		p.skip(2*n, "the hashes of the PCR policies")
		p.buffers20(n, "a PCR policy")
		p.tail(v)
	})
	p.pcrSelections20()
	p.array20(1, "the commands that need physical presence")
	if !p.done() {
		p.failedTries = p.off
	}
	p.skip(4*4, "the counters of the dictionary attack logic")
	p.flag(1, "lockOutAuthEnabled")
	p.orderlyState = p.u16("orderlyState")
	p.array20(1, "the audited commands")
	if alg := p.u16("the hash of the command audit"); !p.hashes[alg] {
		p.failAt(p.off-2, "the hash of the command audit is 0x%04x, which this TPM does not have", alg)
	}
	p.skip(8+3*4, "auditCounter, algorithmSet and the firmware version")
	switch n := p.u8("the size of the clock epoch"); n {
	case 4, 8:
		p.skip(int(n), "the clock epoch")
	default:
		p.failAt(p.off-1, "the size of the clock epoch is %d", n)
	}
	if version >= minVersioned {
		p.block(p.dataVersion3(version))
	}
}

// dataVersion3 returns the decoder of the fields that version 3 has added to PERSISTENT_DATA, nil
// for an older version.
func (p *permanent) dataVersion3(version uint16) func() {
	if version < 3 {
		return nil
	}
	return func() {
		p.pcrSelections20()
		if version < 4 {
			p.block(nil)
			return
		}
		p.block(func() {
			p.skip(3, "the levels of the seeds")
			p.block(nil)
		})
	}
}

// orderly decodes ORDERLY_DATA.
//
// Source: libtpms, src/tpm2/NVMarshal.c, ORDERLY_DATA_Unmarshal.
func (p *permanent) orderly() {
	version := p.header(orderlyHeader)
	p.skip(8+1, "clock and clockSafe")
	v := p.header(drbgHeader)
	p.skip(8+4, "the counter and the magic of the random number generator")
	p.array20(1, "the seed of the random number generator")
	p.array20(4, "the last value of the random number generator")
	p.tail(v)
	p.block(func() { p.skip(3*8, "the timers of the dictionary attack logic") })
	p.tail(version)
}

// untilReset decodes STATE_RESET_DATA.
//
// Source: libtpms, src/tpm2/NVMarshal.c, STATE_RESET_DATA_Unmarshal.
func (p *permanent) untilReset() {
	version := p.header(resetHeader)
	p.buffers20(2, "the proof and the seed of the null hierarchy")
	p.skip(4+8, "clearCount and objectContextID")
	if version < 4 {
		p.array20(1, "the saved contexts")
	} else {
		p.array20(2, "the saved contexts")
		p.u16("the mask of the saved contexts")
	}
	p.u64("contextCounter")
	p.buffer20("the digest of the command audit")
	p.skip(2*4, "restartCount and pcrCounter")
	p.block(func() {
		p.u64("commitCounter")
		p.buffer20("commitNonce")
		p.array20(1, "commitArray")
	})
	switch {
	case version >= 3:
		p.level("the null seed")
	default:
		p.tail(version)
	}
}

// level decodes the block that describes how a seed was made, and an optional block in it.
func (p *permanent) level(what string) {
	p.block(func() {
		p.u8("the level of " + what)
		p.block(nil)
	})
}

// untilClear decodes STATE_CLEAR_DATA with the saved PCRs: banks of an
// algorithm and an array, the last algorithm is TPM_ALG_NULL.
//
// Source: libtpms, src/tpm2/NVMarshal.c, STATE_CLEAR_DATA_Unmarshal,
// PCR_SAVE_Unmarshal, PCR_AUTHVALUE_Unmarshal.
func (p *permanent) untilClear() {
	version := p.header(clearHeader)
	p.flag(3, "shEnable, ehEnable or phEnableNV")
	p.u16("the hash of the platform policy")
	p.buffer20("the platform policy")
	p.buffer20("the platform secret")
	v := p.header(pcrSaveHeader)
	p.u16("the number of saved PCRs")
	for !p.done() && p.u16("the hash of saved PCRs") != algNull20 {
		p.array20(1, "saved PCRs")
	}
	p.tail(v)
	v = p.header(pcrAuthHeader)
	p.buffers20(int(p.u16("the number of PCR secrets")), "a PCR secret")
	p.tail(v)
	p.tail(version)
}

func (r *reader) u64(what string) { r.skip(8, what) }
