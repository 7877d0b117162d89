package payload

// The sizes that libtpms has for the volatile state of a TPM 1.2.
//
// Source: libtpms, src/tpm12/tpm_constants.h.
const (
	pcrs12       = 24  // all
	savedPCRs12  = 16  // those that TPM_SaveState keeps: no command resets them
	sessions12   = 16  // authorization sessions, and transport sessions
	daa12        = 2   // DAA sessions
	keyHandles12 = 20  // loaded keys
	contexts12   = 128 // saved contexts that are remembered
	sha1Block    = 64  // bytes that SHA-1 collects before it works
)

// volatile12 decodes the volatile blob of a TPM 1.2.
//
// Source: libtpms, src/tpm12/tpm_startup.c, TPM_VolatileAll_Load.
func volatile12(r *reader) {
	r.sha1Trailer()
	r.tag(1, "the version of the blob")
	r.tag(1, "the version of the parameters")
	r.skip(2*1+12*2+4, "the parameters") // libtpms compares them with its own
	r.tag(1, "the version of the state")
	r.stclearFlags12()
	r.tag(0x0021, "the tag of the stany flags")
	r.flag(1, "postInitialise")
	r.skip(2*4, "localityModifier and transportExclusive")
	r.flag(2, "TOSPresent or stateSaved")
	r.stclearData12(pcrs12)
	r.tag(0x0024, "the tag of the stany data")
	r.tag(0x0014, "the tag of the ticks")
	r.skip(8+2+size12Digest+8, "the ticks")
	r.loadedKeys12()
	r.sha1Context12()
	r.sha1Context12()
	r.skip(2*4, "transportHandle and testState")
	r.nvFlags12()
	r.end()
}

// PCRs12 returns the values of all PCRs in the volatile blob of a TPM 1.2, 20 bytes each, as a part
// of the blob. ok is false if the blob is damaged or has an unknown layout.
func PCRs12(volatile []byte) (values []byte, ok bool) {
	r := &reader{b: volatile}
	volatile12(r)
	return r.pcrs, !r.done() && len(r.pcrs) == pcrs12*size12Digest
}

// savestate12 decodes the blob that TPM_SaveState has written.
//
// Source: libtpms, src/tpm12/tpm_startup.c, TPM_SaveState_Load.
func savestate12(r *reader) {
	r.sha1Trailer()
	r.stclearData12(savedPCRs12)
	r.stclearFlags12()
	r.loadedKeys12()
	r.nvFlags12()
	r.end()
}

// stclearFlags12 decodes TPM_STCLEAR_FLAGS.
//
// Source: libtpms, src/tpm12/tpm_init.c, TPM_StclearFlags_Load.
func (r *reader) stclearFlags12() {
	r.tag(0x0020, "the tag of the stclear flags")
	r.flag(5, "a stclear flag")
}

// stclearData12 decodes TPM_STCLEAR_DATA with n PCRs. The older version of it
// ends with the response of an ordinal.
//
// Source: libtpms, src/tpm12/tpm_init.c, TPM_StclearData_Load.
func (r *reader) stclearData12(n int) {
	const oldest, newest = 0x0023, 0x0024
	version := r.u16("the version of the stclear data")
	if version < oldest {
		r.failAt(r.off-2, "the version of the stclear data is 0x%04x", version)
	}
	if version > newest {
		r.unknown()
		return
	}
	r.digest(1, "contextNonceKey")
	r.skip(2*4, "countID and ownerReference")
	r.flag(1, "disableResetLock")
	r.pcrs = r.take(n*size12Digest, "the PCRs")
	r.skip(3*4, "deferredPhysicalPresence and two more")
	r.sessions12(sessions12, "authorization", (*reader).authSession12)
	r.sessions12(sessions12, "transport", (*reader).transportSession12)
	r.sessions12(daa12, "DAA", (*reader).daaSession12)
	r.digest(1, "contextNonceSession")
	r.u32("contextCount")
	r.skip(contexts12*4, "contextList")
	r.digest(1, "auditDigest")
	if version == oldest {
		r.skip(r.count(r.u32("the size of a response"), 1, "bytes of a response"), "a response")
		r.u32("the ordinal of a response")
	}
}

// sessions12 decodes up to limit sessions of a kind.
func (r *reader) sessions12(limit uint32, kind string, session func(*reader)) {
	n := r.u32("the number of " + kind + " sessions")
	r.atMost(n, limit, "the number of "+kind+" sessions")
	for range n {
		if r.done() {
			return
		}
		session(r)
	}
}

// Source: libtpms, src/tpm12/tpm_session.c, TPM_AuthSessionData_Load.
func (r *reader) authSession12() {
	r.skip(4+2+1+1, "an authorization session")
	r.digest(3, "the nonces and the secret of an authorization session")
	r.delegatePublic12()
}

// Source: libtpms, src/tpm12/tpm_transport.c, TPM_TransportInternal_Load.
func (r *reader) transportSession12() {
	r.tag(0x000f, "the tag of a transport session")
	r.digest(1, "the secret of a transport session")
	r.tag(0x001e, "the tag of the public part of a transport session")
	r.skip(4+4+2, "the public part of a transport session")
	r.u32("the handle of a transport session")
	r.digest(2, "the nonce and the digest of a transport session")
}

// Source: libtpms, src/tpm12/tpm_daa.c, TPM_DaaSessionData_Load.
func (r *reader) daaSession12() {
	r.tag(0x002f, "the tag of a DAA issuer")
	r.skip(6*size12Digest+26, "a DAA issuer")
	r.tag(0x0032, "the tag of a DAA TPM")
	r.skip(4*size12Digest+4, "a DAA TPM")
	r.tag(0x002d, "the tag of a DAA context")
	r.skip(3*size12Digest+256+1, "a DAA context")
	r.flag(1, "the mark of a DAA context")
	r.skip(128+138+size12Digest, "the join data of a DAA session")
	r.u32("the handle of a DAA session")
}

// loadedKeys12 decodes the loaded keys.
//
// Source: libtpms, src/tpm12/tpm_key.c, TPM_KeyHandleEntries_Load.
func (r *reader) loadedKeys12() {
	r.tag(1, "the version of the loaded keys")
	n := r.u32("the number of loaded keys")
	r.atMost(n, keyHandles12, "the number of loaded keys")
	if !r.done() {
		r.keyHandles12(n)
	}
}

// sha1Context12 decodes an optional unfinished SHA-1. libtpms passes the number of collected bytes
// to OpenSSL without a check.
//
// Source: libtpms, src/tpm12/tpm_crypto.c, TPM_Sha1Context_Load.
func (r *reader) sha1Context12() {
	switch r.u8("the mark of a SHA-1") {
	case 0:
		return
	case 1:
	default:
		r.failAt(r.off-1, "the mark of a SHA-1 is neither 0 nor 1")
	}
	r.tag(1, "the version of a SHA-1")
	r.skip(5*4+2*4+sha1Block, "a SHA-1")
	r.atMost(r.u32("the number of collected bytes"), sha1Block-1, "the number of collected bytes")
}

// nvFlags12 decodes the flags of the NV indices that a power cycle clears.
// libtpms compares the count with the permanent blob's count.
//
// Source: libtpms, src/tpm12/tpm_nvram.c, TPM_NVIndexEntries_LoadVolatile.
func (r *reader) nvFlags12() {
	r.tag(1, "the version of the flags of NV indices")
	r.flag(2*r.count(r.u32("the number of NV indices"), 2, "NV indices"), "bReadSTClear or bWriteSTClear")
}
