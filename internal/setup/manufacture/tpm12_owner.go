package manufacture

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
)

// protocolOwner is TPM_PID_OWNER.
const protocolOwner = 0x0005

// oaepLabel is TCPA_OAEP_PARM, the OAEP label of everything that is encrypted for
// a TPM 1.2.
//
// Source: TPM Main, Part 1, 31.1.1.
var oaepLabel = []byte("TCPA")

// takeOwnership gives the TPM an owner and a storage root key with these
// authorization values.
func (c client12) takeOwnership(ek *rsa.PublicKey, owner, srk Auth) error {
	encOwner, err := encrypt(ek, owner)
	if err != nil {
		return err
	}
	encSRK, err := encrypt(ek, srk)
	if err != nil {
		return err
	}
	s, err := c.oiap()
	if err != nil {
		return err
	}
	return c.runAuth(s, owner, ordTakeOwnership, ownerParams(encOwner, encSRK))
}

// encrypt encrypts the authorization value a for the TPM.
func encrypt(ek *rsa.PublicKey, a Auth) ([]byte, error) {
	b, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, ek, a[:], oaepLabel)
	if err != nil {
		return nil, fmt.Errorf("encrypt for the endorsement key: %w", err)
	}
	return b, nil
}

// ownerParams returns the parameters of TPM_TakeOwnership, without the session:
//
//	off len field
//	  0   2 protocolID
//	  2   4 encOwnerAuthSize  256
//	  6 256 encOwnerAuth
//	262   4 encSrkAuthSize    256
//	266 256 encSrkAuth
//	522  47 srkParams         TPM_KEY12
func ownerParams(encOwner, encSRK []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, protocolOwner)
	for _, enc := range [][]byte{encOwner, encSRK} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(enc)))
		b = append(b, enc...)
	}
	return appendSRK(b)
}

// oiapSession is an OIAP session.
type oiapSession struct {
	handle    uint32
	nonceEven [sha1.Size]byte // the TPM's latest nonce
}

// oiap opens a session. The parameters of the response are
//
//	off len field
//	  0   4 authHandle
//	  4  20 nonceEven
func (c client12) oiap() (oiapSession, error) {
	rsp, err := c.run(ordOIAP, nil)
	if err != nil {
		return oiapSession{}, err
	}
	if len(rsp) != 4+sha1.Size {
		return oiapSession{}, fmt.Errorf("%v: invalid session of %d bytes, expected %d", ordOIAP, len(rsp), 4+sha1.Size)
	}
	s := oiapSession{handle: binary.BigEndian.Uint32(rsp)}
	copy(s.nonceEven[:], rsp[4:])
	return s, nil
}

// nonceOdd is the nonce of this program in each session. It can be constant because each session
// is used once and has a nonce from the TPM.
//
// Compat: C-279: swtpm_setup has the same value, so the traffic is the same.
var nonceOdd = [sha1.Size]byte{1, 2, 3, 4, 5, 6}

// runAuth sends the last command of session s, authorized with a. It rejects a response
// that the TPM has not authorized with a, too.
func (c client12) runAuth(s oiapSession, a Auth, o ordinal, params []byte) error {
	rsp, err := c.send(tagRquAuth1, tagRspAuth1, o, authorize(s, a, o, params))
	if err != nil {
		return err
	}
	if err := verify(rsp, a, o); err != nil {
		return fmt.Errorf("%v: %w", o, err)
	}
	return nil
}

// authorize returns params, followed by the session:
//
//	off len field
//	  0   4 authHandle
//	  4  20 nonceOdd
//	 24   1 continueAuthSession  0
//	 25  20 auth  HMAC
func authorize(s oiapSession, a Auth, o ordinal, params []byte) []byte {
	in := sha1.Sum(append(binary.BigEndian.AppendUint32(nil, uint32(o)), params...))
	b := append(make([]byte, 0, len(params)+45), params...)
	b = binary.BigEndian.AppendUint32(b, s.handle)
	b = append(b, nonceOdd[:]...)
	b = append(b, 0)
	return append(b, authHMAC(a, in, s.nonceEven[:], 0)...)
}

// verify checks the session at the end of a response; rsp is the response without its
// header:
//
//	off len field
//	  0   n parameters
//	  n  20 nonceEven
//	n+20   1 continueAuthSession
//	n+21  20 resAuth  HMAC
func verify(rsp []byte, a Auth, o ordinal) error {
	own := len(rsp) - (2*sha1.Size + 1)
	if own < 0 {
		return errors.New("missing session in the response")
	}
	const success = 0
	out := binary.BigEndian.AppendUint32(nil, success)
	out = binary.BigEndian.AppendUint32(out, uint32(o))
	digest := sha1.Sum(append(out, rsp[:own]...))
	nonceEven, cont, auth := rsp[own:own+sha1.Size], rsp[own+sha1.Size], rsp[own+sha1.Size+1:]
	if !hmac.Equal(auth, authHMAC(a, digest, nonceEven, cont)) {
		return errors.New("wrong authorization of the response")
	}
	return nil
}

// authHMAC returns the HMAC of the digest of a command or response and the nonces of
// its session.
//
// Source: TPM Main, Part 1, 13.2.1.
func authHMAC(a Auth, digest [sha1.Size]byte, nonceEven []byte, cont byte) []byte {
	h := hmac.New(sha1.New, a[:])
	h.Write(digest[:])
	h.Write(nonceEven)
	h.Write(nonceOdd[:])
	h.Write([]byte{cont})
	return h.Sum(nil)
}
