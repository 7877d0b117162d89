package selftest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// curves are the curves that every build of libtpms has.
var curves = []struct {
	name string
	id   tpm2.TPMECCCurve
	pem  *[]byte
}{
	{"p256", tpm2.TPMECCNistP256, &p256PEM},
	{"p384", tpm2.TPMECCNistP384, &p384PEM},
}

func eccChecks() []check {
	var all []check
	for _, c := range curves {
		with := func(f func(b *bench, k *ecdsa.PrivateKey, key tpm2.AuthHandle) error) func(*bench) error {
			return func(b *bench) error { return b.withECC(c.id, *c.pem, f) }
		}
		all = append(all,
			check{name: "ecdsa-" + c.name + "-sign", run: with(ecdsaSign)},
			check{name: "ecdsa-" + c.name + "-verify", run: with(ecdsaVerify)},
			check{name: "ecdh-" + c.name, run: with(ecdhKnown)},
			check{name: "ecdh-" + c.name + "-invalid-point", run: with(ecdhInvalid)})
	}
	return all
}

// withECC calls f with a built-in key, for Go and for the TPM.
func (b *bench) withECC(curve tpm2.TPMECCCurve, pem []byte, f func(b *bench, k *ecdsa.PrivateKey, key tpm2.AuthHandle) error) error {
	k, err := parse[*ecdsa.PrivateKey](pem)
	if err != nil {
		return err
	}
	private, err := k.Bytes()
	if err != nil {
		return err
	}
	size := (k.Params().BitSize + 7) / 8
	key, unload, err := b.load(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: keyAttributes(true, true),
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: k.X.FillBytes(make([]byte, size))},
			Y: tpm2.TPM2BECCParameter{Buffer: k.Y.FillBytes(make([]byte, size))},
		}),
	}, &tpm2.TPMTSensitive{
		SensitiveType: tpm2.TPMAlgECC,
		Sensitive:     tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgECC, &tpm2.TPM2BECCParameter{Buffer: private}),
	})
	if err != nil {
		return err
	}
	defer unload()
	return f(b, k, key)
}

// ecdsaSign checks that Go accepts the TPM's signatures, and that the TPM uses no nonce twice.
func ecdsaSign(b *bench, k *ecdsa.PrivateKey, key tpm2.AuthHandle) error {
	seen := map[string]bool{}
	for range 4 {
		s, err := b.sign(key, tpm2.TPMAlgECDSA)
		if err != nil {
			return err
		}
		sig, err := s.Signature.ECDSA()
		if err != nil {
			return err
		}
		r := new(big.Int).SetBytes(sig.SignatureR.Buffer)
		if !ecdsa.Verify(&k.PublicKey, signed[:], r, new(big.Int).SetBytes(sig.SignatureS.Buffer)) {
			return fmt.Errorf("ECDSA signature is not valid")
		}
		if seen[r.String()] {
			return fmt.Errorf("two ECDSA signatures have the same nonce")
		}
		seen[r.String()] = true
	}
	return nil
}

// ecdsaVerify checks that the TPM accepts Go's signature, and rejects one that is changed, zero
// or out of range.
func ecdsaVerify(b *bench, k *ecdsa.PrivateKey, key tpm2.AuthHandle) error {
	r, s, err := ecdsa.Sign(rand.Reader, k, signed[:])
	if err != nil {
		return err
	}
	verify := func(r, s *big.Int) error {
		size := (k.Params().BitSize + 7) / 8
		_, err := tpm2.VerifySignature{
			KeyHandle: key.Handle, Digest: tpm2.TPM2BDigest{Buffer: signed[:]},
			Signature: tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
				Hash:       tpm2.TPMAlgSHA256,
				SignatureR: tpm2.TPM2BECCParameter{Buffer: r.FillBytes(make([]byte, size))},
				SignatureS: tpm2.TPM2BECCParameter{Buffer: s.FillBytes(make([]byte, size))},
			})},
		}.Execute(b)
		return err
	}
	if err := verify(r, s); err != nil {
		return fmt.Errorf("TPM2_VerifySignature of a correct signature: %w", err)
	}
	zero, order := new(big.Int), k.Params().N
	for _, c := range []struct {
		what string
		r, s *big.Int
	}{
		{"a changed signature", r, new(big.Int).Xor(s, big.NewInt(2))},
		{"a signature with r = 0", zero, s},
		{"a signature with s = 0", r, zero},
		{"a signature of zeros", zero, zero},
		{"a signature with s = n", r, order},
		{"a signature with r = n", order, s},
	} {
		if err := refused("TPM2_VerifySignature of "+c.what, verify(c.r, c.s), tpm2.TPMRCSignature); err != nil {
			return err
		}
	}
	return nil
}

// zgen runs TPM2_ECDH_ZGen and returns the x coordinate.
func (b *bench) zgen(key tpm2.AuthHandle, x, y []byte) ([]byte, error) {
	rsp, err := tpm2.ECDHZGen{KeyHandle: key, InPoint: tpm2.New2B(tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y},
	})}.Execute(b)
	if err != nil {
		return nil, err
	}
	point, err := rsp.OutPoint.Contents()
	if err != nil {
		return nil, err
	}
	return point.X.Buffer, nil
}

// ecdhKnown compares a shared secret with Go's.
func ecdhKnown(b *bench, k *ecdsa.PrivateKey, key tpm2.AuthHandle) error {
	ours, err := k.ECDH()
	if err != nil {
		return err
	}
	peer, err := ours.Curve().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	want, err := ours.ECDH(peer.PublicKey())
	if err != nil {
		return err
	}
	point := peer.PublicKey().Bytes()[1:] // after the format byte: x, y
	got, err := b.zgen(key, point[:len(point)/2], point[len(point)/2:])
	if err != nil {
		return fmt.Errorf("TPM2_ECDH_ZGen: %w", err)
	}
	return differ("shared secret", new(big.Int).SetBytes(got).FillBytes(make([]byte, len(want))), want)
}

// ecdhInvalid checks that the TPM rejects a point that is not on the curve, because the response
// would reveal the private key.
func ecdhInvalid(b *bench, k *ecdsa.PrivateKey, key tpm2.AuthHandle) error {
	size := (k.Params().BitSize + 7) / 8
	x := k.X.FillBytes(make([]byte, size))
	y := new(big.Int).Xor(k.Y, big.NewInt(1)).FillBytes(make([]byte, size))
	_, err := b.zgen(key, x, y)
	if err := refused("TPM2_ECDH_ZGen with a point that is not on the curve", err, tpm2.TPMRCECCPoint); err != nil {
		return err
	}
	zero := make([]byte, size)
	_, err = b.zgen(key, zero, zero)
	return refused("TPM2_ECDH_ZGen with the point (0, 0)", err, tpm2.TPMRCECCPoint)
}
