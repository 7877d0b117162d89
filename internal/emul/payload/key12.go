package payload

// The values in a TPM 1.2 key that libtpms accepts.
const (
	algNone12      = 0
	algRSA12       = 1
	maxKeyFlags12  = 0x1f
	maxLocality12  = 0x1f // a set of the localities 0 to 4, never empty
	pcrSelectMax12 = 3    // bytes of a PCR selection
	payloadAsym12  = 1
	payloadCMK1    = 6 // TPM_PT_MIGRATE_RESTRICTED
	payloadCMK2    = 7 // TPM_PT_MIGRATE_EXTERNAL
)

// buffer12 reads a sized buffer and returns its bytes.
//
// Source: libtpms, src/tpm12/tpm_sizedbuffer.c, TPM_SizedBuffer_Load.
func (r *reader) buffer12(what string) []byte {
	n := r.u32("the size of " + what)
	r.atMost(n, maxBuffer12, "the size of "+what)
	if r.done() {
		return nil
	}
	return r.take(int(n), what)
}

// inside decodes with f the bytes b of a buffer that ends at r.off. Bytes that f does not read
// are ignored, as in libtpms.
func (r *reader) inside(b []byte, f func(*reader)) {
	if r.done() {
		return
	}
	s := &reader{b: r.b[:r.off], off: r.off - len(b)}
	f(s)
	r.err = s.err
}

// keyParms12 has the checked fields of TPM_KEY_PARMS.
type keyParms12 struct {
	alg       uint32
	encScheme uint16
	exponent  []byte // of an RSA key; empty means 65537
}

// keyParms12 decodes TPM_KEY_PARMS.
//
// Source: libtpms, src/tpm12/tpm_key.c, TPM_KeyParms_Load, TPM_RSAKeyParms_Load.
func (r *reader) keyParms12() (p keyParms12) {
	p.alg = r.u32("the algorithm of a key")
	if p.alg != algNone12 && p.alg != algRSA12 {
		r.failAt(r.off-4, "the algorithm of a key is 0x%x, not RSA", p.alg)
	}
	p.encScheme = r.u16("the encryption scheme of a key")
	r.u16("the signature scheme of a key")
	parms := r.buffer12("the parameters of a key")
	if p.alg == algRSA12 {
		r.inside(parms, func(r *reader) {
			r.skip(4+4, "the length of an RSA key and the number of its primes")
			p.exponent = r.buffer12("an RSA exponent")
		})
	}
	return p
}

// key12 decodes TPM_KEY or TPM_KEY12 with its private part in the clear.
//
// Source: libtpms, src/tpm12/tpm_key.c, TPM_Key_LoadClear, TPM_Key_LoadPubData,
// TPM_StoreAsymkey_Load.
func (r *reader) key12() {
	isKey12 := r.keyVersion12()
	r.u16("the usage of a key")
	r.keyFlags12()
	r.keyParms12()
	r.pcrInfo12(isKey12)
	r.buffer12("a public key")
	if r.u32("the size of a private key") == 0 {
		return
	}
	switch p := r.u8("the payload type of a private key"); p {
	case payloadAsym12, payloadCMK1, payloadCMK2:
	default:
		r.failAt(r.off-1, "the payload type of a private key is %d", p)
	}
	r.digest(2, "usageAuth and migrationAuth")
	r.digest(1, "pubDataDigest")
	r.buffer12("a private key")
}

// keyVersion12 reads the first field of a key, and reports whether it is a TPM_KEY12 rather than a
// TPM_KEY.
func (r *reader) keyVersion12() bool {
	if r.left() > 0 && r.b[r.off] == 0 {
		r.tag(0x0028, "the tag of a key")
		r.tag(0, "the fill of a key")
		return true
	}
	r.tag(0x0101, "the version of a key")
	r.skip(2, "the revision of a key")
	return false
}

func (r *reader) keyFlags12() {
	r.atMost(r.u32("the flags of a key"), maxKeyFlags12, "the flags of a key")
	r.u8("authDataUsage")
}

// pcrInfo12 decodes the sized buffer with TPM_PCR_INFO or TPM_PCR_INFO_LONG.
//
// Source: libtpms, src/tpm12/tpm_pcr.c, TPM_PCRInfo_Load, TPM_PCRInfoLong_Load.
func (r *reader) pcrInfo12(long bool) {
	info := r.buffer12("the PCR information of a key")
	if len(info) == 0 {
		return
	}
	r.inside(info, func(r *reader) {
		if long {
			r.tag(0x0006, "the tag of PCR information")
			r.localities12()
			r.localities12()
			r.pcrSelection12()
		}
		r.pcrSelection12()
		r.digest(2, "the digests of PCR information")
	})
}

// pcrSelection12 reads a selection and reports whether it selects a PCR.
//
// Source: libtpms, src/tpm12/tpm_pcr.c, TPM_PCRSelection_Load.
func (r *reader) pcrSelection12() bool {
	n := uint32(r.u16("the size of a PCR selection"))
	r.atMost(n, pcrSelectMax12, "the size of a PCR selection")
	used := false
	for _, b := range r.take(int(n), "a PCR selection") {
		used = used || b != 0
	}
	return used
}

// localities12 reads a set of localities.
//
// Source: libtpms, src/tpm12/tpm_pcr.c, TPM_LocalitySelection_CheckLegal.
func (r *reader) localities12() {
	if v := r.u8("a set of localities"); v == 0 || v > maxLocality12 {
		r.failAt(r.off-1, "0x%02x is not a set of localities", v)
	}
}

// pcrInfoShort12 decodes TPM_PCR_INFO_SHORT. It has a digest if a PCR is
// selected, or if always is set.
//
// Source: libtpms, src/tpm12/tpm_pcr.c, TPM_PCRInfoShort_Load.
func (r *reader) pcrInfoShort12(always bool) {
	used := r.pcrSelection12()
	r.localities12()
	if used || always {
		r.digest(1, "digestAtRelease")
	}
}

// symmetricKey12 decodes a symmetric key.
//
// Source: libtpms, src/tpm12/tpm_crypto.c, TPM_SymmetricKeyData_Load.
func (r *reader) symmetricKey12() {
	r.tag(0x0015, "the tag of a symmetric key")
	r.flag(1, "the valid mark of a symmetric key")
	r.skip(1+16, "a symmetric key")
}

// delegatePublic12 decodes TPM_DELEGATE_PUBLIC.
//
// Source: libtpms, src/tpm12/tpm_delegate.c, TPM_DelegatePublic_Load,
// TPM_Delegations_Load.
func (r *reader) delegatePublic12() {
	r.tag(0x001b, "the tag of a delegation")
	r.u8("the label of a delegation")
	r.pcrInfoShort12(true)
	r.tag(0x001a, "the tag of the permissions of a delegation")
	r.skip(3*4, "the permissions of a delegation")
	r.skip(2*4, "the family and the verification count of a delegation")
}
