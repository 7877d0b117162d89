package manufacture

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Algorithm is the algorithm and size of a key.
type Algorithm uint8

// The algorithms that keys of a TPM 2.0 may have.
const (
	None Algorithm = iota
	RSA2048
	RSA3072
	RSA4096
	P256
	P384
	P521
)

// algorithms describes each Algorithm, and the handle and the NV indices of an EK
// of that algorithm.
//
// Source: TCG EK Credential Profile 2.6, sections 2.2.1.4 and 2.2.1.5; TCG TPM v2.0
// Provisioning Guidance, section 7.8.
var algorithms = map[Algorithm]struct {
	names          []string // in options and configuration files; the first one in file names
	bits           int      // of an RSA key
	curve          tpm2.TPMECCCurve
	nameAlg        tpm2.TPMAlgID // hash that names keys
	handle         tpm2.TPMHandle
	cert, template tpm2.TPMHandle // NV indices
}{
	RSA2048: {[]string{"rsa2048"}, 2048, 0, tpm2.TPMAlgSHA256, 0x81010001, 0x01C00002, 0x01C00004},
	RSA3072: {[]string{"rsa3072"}, 3072, 0, tpm2.TPMAlgSHA384, 0x8101001C, 0x01C0001C, 0x01C0001D},
	RSA4096: {[]string{"rsa4096"}, 4096, 0, tpm2.TPMAlgSHA384, 0x8101001E, 0x01C0001E, 0x01C0001F},
	P256:    {[]string{"secp256r1", "ecc_nist_p256"}, 0, tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, 0x8101000A, 0x01C0000A, 0x01C0000B},
	P384:    {[]string{"secp384r1", "ecc_nist_p384"}, 0, tpm2.TPMECCNistP384, tpm2.TPMAlgSHA384, 0x81010016, 0x01C00016, 0x01C00017},
	P521:    {[]string{"secp521r1", "ecc_nist_p521"}, 0, tpm2.TPMECCNistP521, tpm2.TPMAlgSHA512, 0x81010018, 0x01C00018, 0x01C00019},
}

// ParseAlgorithm returns the algorithm with a name; case does not matter.
func ParseAlgorithm(name string) (Algorithm, bool) {
	for a, x := range algorithms {
		for _, n := range x.names {
			if strings.EqualFold(n, name) {
				return a, true
			}
		}
	}
	return None, false
}

// Name returns the name of the algorithm in file names and for certificate tools:
// "rsa2048", "secp384r1".
func (a Algorithm) Name() string {
	if a == None {
		return "none"
	}
	return algorithms[a].names[0]
}

// Bits returns the size of an RSA key, and 0 for another key.
func (a Algorithm) Bits() int { return algorithms[a].bits }

// String returns the name of the algorithm in messages.
func (a Algorithm) String() string {
	if n := a.Bits(); n > 0 {
		return fmt.Sprintf("RSA %d", n)
	}
	return a.Name()
}

// Handles of keys, and NV indices of certificates.
const (
	spkHandle    tpm2.TPMHandle = 0x81000001
	iakHandle    tpm2.TPMHandle = 0x81020001
	idevidHandle tpm2.TPMHandle = 0x81020000

	platformCert tpm2.TPMHandle = 0x01C08000
	iakCert      tpm2.TPMHandle = 0x01C90100
	idevidCert   tpm2.TPMHandle = 0x01C90200
)

// The authorization policies, by the hash that names the key.
//
// Source: TCG EK Credential Profile 2.6, PolicyA and PolicyB; TCG TPM 2.0 Keys for
// Device Identity and Attestation 1.0, section 7.3.
var (
	ekPolicies = map[tpm2.TPMAlgID]string{
		tpm2.TPMAlgSHA256: "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa",
		tpm2.TPMAlgSHA384: "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12",
		tpm2.TPMAlgSHA512: "b8221ca69e8550a4914de3faa6a18c072cc01208073a928d5d66d59ef79e49a429c41a6b269571d57edb25fbdb1838425608b413cd616a5f6db5b6071af99bea",
	}
	iakPolicies = map[tpm2.TPMAlgID]string{
		tpm2.TPMAlgSHA256: "5437182326e414fca797d5f174615a1641f61255797c3a2b22c21d120b2d1e07",
		tpm2.TPMAlgSHA384: "129d94ebf84556652c6eef43bbb757512ac87e52be7b349ca6ce4d826f749fcf672f51716c5cbb605f313bf345aab312",
		tpm2.TPMAlgSHA512: "8060d1fb31716a29e48a6e5fece088bcfc1b278fc162255e81c3eca3544cd44af94410c3715d561cccd9e39a6cb2646d43535bb54ea88710deb5f7836bd9b586",
	}
	idevidPolicies = map[tpm2.TPMAlgID]string{
		tpm2.TPMAlgSHA256: "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea",
		tpm2.TPMAlgSHA384: "4db1aa836d0b5615df6ee53a40ef70c61c217f4303d44695925972bc927006cfa5cbdf6dc18c4dbe329b2f1542c3dd33",
		tpm2.TPMAlgSHA512: "7dd7500fd6c1b94f97a6af910da147301ef28f662fee06f225a4ccadda3b4e6b38e66b2f3ad5dee1a0503cd2daedb1e68cfe4f84b03a8cd22bb6a976f071a72f",
	}
)

// highRange returns the attributes that EK, IAK and IDevID have in common, except
// for EKs of the low range, which are not used with authorization.
func highRange() tpm2.TPMAObject {
	return tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, AdminWithPolicy: true}
}

// ekTemplate returns the template of an EK. With signing it is a signing key instead
// of a storage key; with decryption, too, it also decrypts.
//
// Source: TCG EK Credential Profile 2.6, templates L-1, L-2, H-2 to H-4 and H-6
// to H-7.
func ekTemplate(a Algorithm, signing, decryption bool) tpm2.TPMTPublic {
	low := a == RSA2048 || a == P256
	attributes := highRange()
	attributes.UserWithAuth = !low
	attributes.SignEncrypt = signing
	attributes.Decrypt = !signing || decryption
	attributes.Restricted = !signing
	symmetric := aes(256)
	if low {
		symmetric = aes(128)
	}
	if signing {
		symmetric = noSymmetric
	}
	var x, y []byte
	switch a {
	case RSA2048:
		x = make([]byte, 256)
	case P256:
		x, y = make([]byte, 32), make([]byte, 32)
	}
	return a.template(attributes, ekPolicies, symmetric, tpm2.TPMAlgNull, x, y)
}

// spkTemplate returns the template of the storage primary key: RSA 3072 or P-384.
//
// Source: TCG TPM v2.0 Provisioning Guidance, section 7.5.1.
func spkTemplate(ecc bool) tpm2.TPMTPublic {
	attributes := tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, Decrypt: true,
	}
	if ecc {
		return P384.template(attributes, nil, aes(256), tpm2.TPMAlgNull, make([]byte, 48), make([]byte, 48))
	}
	return RSA3072.template(attributes, nil, aes(256), tpm2.TPMAlgNull, make([]byte, 384), nil)
}

// iakTemplate returns the template of the initial attestation key.
//
// Source: TCG TPM 2.0 Keys for Device Identity and Attestation 1.0, section 7.3.4.
func iakTemplate(a Algorithm) tpm2.TPMTPublic {
	attributes := highRange()
	attributes.SignEncrypt, attributes.Restricted = true, true
	scheme := tpm2.TPMAlgECDSA
	if a.Bits() > 0 {
		scheme = tpm2.TPMAlgRSAPSS
	}
	return a.template(attributes, iakPolicies, noSymmetric, scheme, []byte("IAK"), nil)
}

// idevidTemplate returns the template of the initial device identity.
//
// Source: as for iakTemplate.
func idevidTemplate(a Algorithm) tpm2.TPMTPublic {
	attributes := highRange()
	attributes.SignEncrypt = true
	scheme := tpm2.TPMAlgECDSA
	if a.Bits() > 0 {
		scheme = tpm2.TPMAlgNull
	}
	return a.template(attributes, idevidPolicies, noSymmetric, scheme, []byte("IDEVID"), nil)
}

// noSymmetric is the symmetric algorithm of keys that are not storage keys.
var noSymmetric = tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull}

// aes returns AES in CFB mode with keys of that many bits.
func aes(bits tpm2.TPMKeyBits) tpm2.TPMTSymDefObject {
	return tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, bits),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}

// template returns the template of a key with this algorithm. x and y are the unique
// field; an RSA key has only x.
func (a Algorithm) template(attributes tpm2.TPMAObject, policies map[tpm2.TPMAlgID]string, symmetric tpm2.TPMTSymDefObject, scheme tpm2.TPMAlgID, x, y []byte) tpm2.TPMTPublic {
	this := algorithms[a]
	policy, err := hex.DecodeString(policies[this.nameAlg])
	if err != nil {
		panic(err) // the tables above are constant
	}
	t := tpm2.TPMTPublic{
		Type: tpm2.TPMAlgRSA, NameAlg: this.nameAlg, ObjectAttributes: attributes, AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
	}
	var details tpm2.TPMUAsymScheme
	switch scheme {
	case tpm2.TPMAlgRSAPSS:
		details = tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: this.nameAlg})
	case tpm2.TPMAlgECDSA:
		details = tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeECDSA{HashAlg: this.nameAlg})
	}
	if this.bits > 0 {
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			Symmetric: symmetric, Scheme: tpm2.TPMTRSAScheme{Scheme: scheme, Details: details}, KeyBits: tpm2.TPMKeyBits(this.bits),
		})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: x})
		return t
	}
	t.Type = tpm2.TPMAlgECC
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: symmetric, Scheme: tpm2.TPMTECCScheme{Scheme: scheme, Details: details}, CurveID: this.curve,
		KDF: tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
	})
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y},
	})
	return t
}
