package tpm20

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Algorithm is the algorithm and size of a key.
type Algorithm uint8

// The algorithms that keys of a TPM may have.
const (
	None Algorithm = iota
	RSA2048
	RSA3072
	RSA4096
	P256
	P384
	P521
)

// names are what options and configuration call the algorithms; the first one is
// that of files.
var names = map[Algorithm][]string{
	RSA2048: {"rsa2048"},
	RSA3072: {"rsa3072"},
	RSA4096: {"rsa4096"},
	P256:    {"secp256r1", "ecc_nist_p256"},
	P384:    {"secp384r1", "ecc_nist_p384"},
	P521:    {"secp521r1", "ecc_nist_p521"},
}

// ParseAlgorithm returns the algorithm that name means, in either case.
func ParseAlgorithm(name string) (Algorithm, bool) {
	for a, all := range names {
		for _, n := range all {
			if strings.EqualFold(n, name) {
				return a, true
			}
		}
	}
	return None, false
}

// Name is what files and certificate tools call the algorithm: "rsa2048",
// "secp384r1".
func (a Algorithm) Name() string {
	if a == None {
		return "none"
	}
	return names[a][0]
}

// Bits is the size of an RSA key; 0 of another.
func (a Algorithm) Bits() int {
	return map[Algorithm]int{RSA2048: 2048, RSA3072: 3072, RSA4096: 4096}[a]
}

// String is what messages call the algorithm.
func (a Algorithm) String() string {
	if n := a.Bits(); n > 0 {
		return fmt.Sprintf("RSA %d", n)
	}
	return a.Name()
}

// places are where an EK of each algorithm and what belongs to it are.
//
// Source: TCG EK Credential Profile 2.6, section 2.2.1.4 and 2.2.1.5; TCG TPM v2.0
// Provisioning Guidance, section 7.8.
var places = map[Algorithm]struct {
	handle         tpm2.TPMHandle
	cert, template uint32 // NV indices
}{
	RSA2048: {0x81010001, 0x01C00002, 0x01C00004},
	RSA3072: {0x8101001C, 0x01C0001C, 0x01C0001D},
	RSA4096: {0x8101001E, 0x01C0001E, 0x01C0001F},
	P256:    {0x8101000A, 0x01C0000A, 0x01C0000B},
	P384:    {0x81010016, 0x01C00016, 0x01C00017},
	P521:    {0x81010018, 0x01C00018, 0x01C00019},
}

const (
	spkHandle    tpm2.TPMHandle = 0x81000001
	iakHandle    tpm2.TPMHandle = 0x81020001
	idevidHandle tpm2.TPMHandle = 0x81020000

	platformCert uint32 = 0x01C08000
	iakCert      uint32 = 0x01C90100
	idevidCert   uint32 = 0x01C90200
)

// The attributes of keys, TPMA_OBJECT.
const (
	fixedTPM            = 1 << 1
	fixedParent         = 1 << 4
	sensitiveDataOrigin = 1 << 5
	userWithAuth        = 1 << 6
	adminWithPolicy     = 1 << 7
	noDA                = 1 << 10
	restricted          = 1 << 16
	decrypt             = 1 << 17
	sign                = 1 << 18

	lowRange  = fixedTPM | fixedParent | sensitiveDataOrigin | adminWithPolicy
	highRange = lowRange | userWithAuth
)

// nameAlgs are the hashes that name keys of each algorithm.
var nameAlgs = map[Algorithm]tpm2.TPMAlgID{
	RSA2048: tpm2.TPMAlgSHA256, RSA3072: tpm2.TPMAlgSHA384, RSA4096: tpm2.TPMAlgSHA384,
	P256: tpm2.TPMAlgSHA256, P384: tpm2.TPMAlgSHA384, P521: tpm2.TPMAlgSHA512,
}

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

// template is a TPMT_PUBLIC that a key is made of.
type template struct {
	alg        Algorithm
	nameAlg    tpm2.TPMAlgID
	attributes uint32
	policy     string // hex digits; "" for none
	symmetric  int    // bits of AES in mode CFB; 0 for none
	scheme     tpm2.TPMAlgID
	unique     []byte // an RSA key's, or the x of an ECC key
	uniqueY    []byte
}

// ekTemplate is the template of an EK. With signing it may sign instead of being
// a storage key, and decrypt too if decryption says so.
//
// Source: TCG EK Credential Profile 2.6, templates L-1, L-2, H-2 to H-4 and H-6
// to H-7.
func ekTemplate(a Algorithm, signing, decryption bool) template {
	t := template{alg: a, nameAlg: nameAlgs[a], attributes: highRange, symmetric: 256, scheme: tpm2.TPMAlgNull}
	if a == RSA2048 || a == P256 {
		t.attributes, t.symmetric = lowRange, 128
	}
	t.policy = ekPolicies[t.nameAlg]
	switch {
	case signing && decryption:
		t.attributes |= sign | decrypt
		t.symmetric = 0
	case signing:
		t.attributes |= sign
		t.symmetric = 0
	default:
		t.attributes |= restricted | decrypt
	}
	switch a {
	case RSA2048:
		t.unique = make([]byte, 256)
	case P256:
		t.unique, t.uniqueY = make([]byte, 32), make([]byte, 32)
	}
	return t
}

// spkTemplate is the template of the storage primary key: RSA 3072 or P-384.
//
// Source: TCG TPM v2.0 Provisioning Guidance, section 7.5.1.
func spkTemplate(ecc bool) template {
	t := template{
		alg: RSA3072, nameAlg: tpm2.TPMAlgSHA384, symmetric: 256, scheme: tpm2.TPMAlgNull, unique: make([]byte, 384),
		attributes: fixedTPM | fixedParent | sensitiveDataOrigin | userWithAuth | noDA | restricted | decrypt,
	}
	if ecc {
		t.alg, t.unique, t.uniqueY = P384, make([]byte, 48), make([]byte, 48)
	}
	return t
}

// iakTemplate is the template of the initial attestation key, idevidTemplate that
// of the initial device identity.
//
// Source: TCG TPM 2.0 Keys for Device Identity and Attestation 1.0, section 7.3.4.
func iakTemplate(a Algorithm) template {
	t := template{alg: a, nameAlg: nameAlgs[a], attributes: highRange | sign | restricted, unique: []byte("IAK")}
	t.policy = iakPolicies[t.nameAlg]
	t.scheme = tpm2.TPMAlgECDSA
	if a.Bits() > 0 {
		t.scheme = tpm2.TPMAlgRSAPSS
	}
	return t
}

func idevidTemplate(a Algorithm) template {
	t := template{alg: a, nameAlg: nameAlgs[a], attributes: highRange | sign, unique: []byte("IDEVID")}
	t.policy = idevidPolicies[t.nameAlg]
	t.scheme = tpm2.TPMAlgECDSA
	if a.Bits() > 0 {
		t.scheme = tpm2.TPMAlgNull
	}
	return t
}

// curves are the curves of ECC keys, TPM_ECC_CURVE.
var curves = map[Algorithm]tpm2.TPMECCCurve{P256: tpm2.TPMECCNistP256, P384: tpm2.TPMECCNistP384, P521: tpm2.TPMECCNistP521}

// bytes returns the template as it goes over the wire, a TPMT_PUBLIC, big-endian:
//
//	u16 type  u16 nameAlg  u32 attributes  TPM2B policy
//	symmetric: u16 AES u16 bits u16 CFB, or u16 NULL
//	scheme: u16 and, unless it is NULL, u16 hash
//	RSA: u16 bits u32 exponent 0, TPM2B unique
//	ECC: u16 curve u16 kdf NULL, TPM2B x TPM2B y
//
// Source: TPM 2.0 Library, Part 2, section 12.2.4.
func (t template) bytes() []byte {
	policy, err := hex.DecodeString(t.policy)
	if err != nil {
		panic(err) // a table of ours
	}
	kind := tpm2.TPMAlgRSA
	if t.alg.Bits() == 0 {
		kind = tpm2.TPMAlgECC
	}
	var w writer
	w.u16(uint16(kind)).u16(uint16(t.nameAlg)).u32(t.attributes).sized(policy)
	if t.symmetric == 0 {
		w.u16(uint16(tpm2.TPMAlgNull))
	} else {
		w.u16(uint16(tpm2.TPMAlgAES)).u16(uint16(t.symmetric)).u16(uint16(tpm2.TPMAlgCFB))
	}
	w.u16(uint16(t.scheme))
	if t.scheme != tpm2.TPMAlgNull {
		w.u16(uint16(t.nameAlg))
	}
	if t.alg.Bits() > 0 {
		w.u16(uint16(t.alg.Bits())).u32(0).sized(t.unique)
	} else {
		w.u16(uint16(curves[t.alg])).u16(uint16(tpm2.TPMAlgNull)).sized(t.unique).sized(t.uniqueY)
	}
	return w.b
}
