package payload

// The sizes that libtpms has for a TPM 1.2.
//
// Source: libtpms, src/tpm12/tpm_constants.h and the loops of the functions
// that are named below.
const (
	size12Digest    = 20      // also of a nonce and a secret
	counters12      = 8       // monotonic counters
	families12      = 16      // rows of the family table
	delegates12     = 4       // rows of the delegate table
	ownerEvicts12   = 10      // keys that survive a power cycle
	maxBuffer12     = 0x20000 // TPM_ALLOC_MAX, the most that TPM_Malloc gives
	noNVIndex12     = 0xffffffff
	gpioFirst12     = 0x00011600 // NV indices without data
	gpioLast12      = 0x000116ff
	minNVIndexSize  = 47 // the least bytes of one NV index in the blob
	permFlagsNewest = 2
	nvNewest        = 2
)

// permanent12 decodes the permanent blob of a TPM 1.2:
//
//	u16 1 | permanent data | permanent flags | owner evict keys | NV indices | SHA-1
//
// Source: libtpms, src/tpm12/tpm_permanent.c, TPM_PermanentAll_Load.
func permanent12(r *reader) {
	r.sha1Trailer()
	r.tag(1, "the version of the blob")
	r.permanentData12()
	if v := r.u16("the version of the permanent flags"); v == 0 {
		r.failAt(r.off-2, "the version of the permanent flags is 0")
	} else if v > permFlagsNewest {
		r.unknown()
	}
	r.u32("the permanent flags")
	r.ownerEvicts12()
	r.nvIndices12()
	r.end()
}

// tag reads a u16 that must be want.
func (r *reader) tag(want uint16, what string) {
	if got := r.u16(what); got != want {
		r.failAt(r.off-2, "%s is 0x%04x, not 0x%04x", what, got, want)
	}
}

// digest reads n digests, nonces or secrets.
func (r *reader) digest(n int, what string) { r.skip(n*size12Digest, what) }

// permanentData12 decodes TPM_PERMANENT_DATA.
//
// Source: libtpms, src/tpm12/tpm_permanent.c, TPM_PermanentData_Load.
func (r *reader) permanentData12() {
	r.tag(0x0022, "the tag of the permanent data")
	r.digest(5, "tpmProof, EKReset, ownerAuth, operatorAuth and authDIR")
	if r.u8("the mark of the maintenance key") == 0 {
		r.failAt(r.off-1, "the maintenance key is marked as missing")
	}
	r.keyParms12()
	r.buffer12("the maintenance key")
	r.endorsementKey12()
	r.key12()
	r.symmetricKey12()
	r.symmetricKey12()
	for range 1 + counters12 { // the first is the audit counter
		r.tag(0x000e, "the tag of a counter")
		r.skip(4+4+size12Digest, "a counter")
		r.flag(1, "the valid mark of a counter")
	}
	r.skip(32, "the audit status of the ordinals")
	for range families12 {
		r.skip(1+3*4, "a row of the family table")
		r.flag(1, "the valid mark of a family")
	}
	for range delegates12 {
		r.tag(0x001c, "the tag of a row of the delegate table")
		r.delegatePublic12()
		r.digest(1, "the secret of a delegation")
		r.flag(1, "the valid mark of a delegation")
	}
	r.skip(3*4, "lastFamilyID, noOwnerNVWrite and restrictDelegate")
	r.digest(1, "tpmDAASeed")
	r.flag(1, "ownerInstalled")
	r.u8("tscOrdinalAuditStatus")
	r.flag(1, "allowLoadMaintPub")
	r.digest(1, "daaProof")
	r.symmetricKey12()
}

// ownerEvicts12 decodes the keys under the owner's control.
//
// Source: libtpms, src/tpm12/tpm_key.c, TPM_KeyHandleEntries_OwnerEvictLoad.
func (r *reader) ownerEvicts12() {
	r.tag(1, "the version of the owner evict keys")
	n := uint32(r.u16("the number of owner evict keys"))
	r.atMost(n, ownerEvicts12, "the number of owner evict keys")
	r.keyHandles12(n)
}

// keyHandles12 decodes n loaded keys: handle, key, parentPCRStatus, keyControl.
//
// Source: libtpms, src/tpm12/tpm_key.c, TPM_KeyHandleEntry_Load.
func (r *reader) keyHandles12(n uint32) {
	for range n {
		if r.done() {
			return
		}
		r.u32("the handle of a key")
		r.key12()
		r.flag(1, "parentPCRStatus")
		r.u32("keyControl")
	}
}

// nvIndices12 decodes the NV indices with their contents. libtpms 0.9.2 and
// later multiply the count by the size of an index in 32 bits: a hostile count
// makes them write beyond their memory.
//
// Source: libtpms, src/tpm12/tpm_nvram.c, TPM_NVIndexEntries_Load,
// TPM_NVDataSensitive_Load, TPM_NVDataPublic_Load.
func (r *reader) nvIndices12() {
	version := r.u16("the version of the NV indices")
	if version > nvNewest {
		r.unknown()
		return
	}
	n := r.count(r.u32("the number of NV indices"), minNVIndexSize, "NV indices")
	for range n {
		if r.done() {
			return
		}
		r.tag(0x0019, "the tag of an NV index")
		r.tag(0x0018, "the tag of the public part of an NV index")
		index := r.u32("an NV index")
		if index == noNVIndex12 {
			r.failAt(r.off-4, "0x%08x is not an NV index", index)
		}
		always := version == 1 // a digest is stored even if no PCR is selected
		r.pcrInfoShort12(always)
		r.pcrInfoShort12(always)
		r.tag(0x0017, "the tag of the attributes of an NV index")
		r.u32("the attributes of an NV index")
		r.flag(3, "bReadSTClear, bWriteSTClear or bWriteDefine")
		size := r.u32("the size of an NV index")
		r.digest(1, "the secret of an NV index")
		if index >= gpioFirst12 && index <= gpioLast12 {
			continue
		}
		if size == 0 {
			r.failAt(r.off-size12Digest-4, "the size of NV index 0x%08x is 0", index)
		}
		r.atMost(size, maxBuffer12, "the size of an NV index")
		r.findStored(index, r.take(int(size), "the contents of an NV index"))
	}
}
