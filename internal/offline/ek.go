package offline

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// EK is an endorsement key. Programs may depend on its JSON.
type EK struct {
	Handle      string `json:"handle"`      // "0x81010001"; of a TPM 1.2 TPM_KH_EK, "0x40000006"
	Algorithm   string `json:"algorithm"`   // "rsa2048", "secp384r1"
	Fingerprint string `json:"fingerprint"` // SHA-256 of the SubjectPublicKeyInfo, hex
	PublicKey   string `json:"publicKey"`   // PEM
	Certificate string `json:"certificate"` // PEM; "" if the TPM has none
}

// ekHandles are the handles of the EKs of a TPM 2.0 and the NV indices of their
// certificates.
//
// Source: TCG EK Credential Profile 2.6, section 2.2.1; swtpm_setup.
var ekHandles = []struct{ handle, cert uint32 }{
	{0x81010001, 0x01C00002}, // RSA 2048
	{0x8101001C, 0x01C0001C}, // RSA 3072
	{0x8101001E, 0x01C0001E}, // RSA 4096
	{0x8101000A, 0x01C0000A}, // P-256
	{0x81010016, 0x01C00016}, // P-384
	{0x81010018, 0x01C00018}, // P-521
}

// EKs reads the endorsement keys and their certificates, and writes nothing. For a TPM 2.0 it
// starts the engine in memory and asks it. For a TPM 1.2 it decodes the state, because a TPM 1.2
// returns its key only to its owner.
func (s *State) EKs(e emul.Library) ([]EK, error) {
	items, err := s.items()
	if err != nil {
		return nil, err
	}
	defer wipe(items)
	if err := s.open(&items[0], s.key); err != nil {
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	if s.version == tpm.V12 {
		all, err := readEK12(items[0].payload)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.where, err)
		}
		return all, nil
	}
	all := []EK{}
	err = whileOn(e, s.version, map[string][]byte{nv.Permanent: items[0].payload}, func() (err error) {
		all, err = readEKs(e)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.where, err)
	}
	return all, nil
}

func readEKs(e emul.Library) ([]EK, error) {
	if _, _, err := execute(e, tpm.Startup(tpm.V20, 0)); err != nil {
		return nil, err
	}
	all := []EK{}
	for _, at := range ekHandles {
		body, code, err := execute(e, command20(0x8001, readPublic, at.handle))
		if err != nil {
			return nil, err
		}
		if code != 0 {
			continue // no such key
		}
		k, err := parseEK(body)
		if err != nil {
			return nil, fmt.Errorf("the EK 0x%08x: %w", at.handle, err)
		}
		k.Handle = fmt.Sprintf("0x%08x", at.handle)
		cert, err := readIndex(e, at.cert)
		if err != nil {
			return nil, fmt.Errorf("the certificate in 0x%08x: %w", at.cert, err)
		}
		if cert != nil {
			k.Certificate = pemText("CERTIFICATE", cert)
		}
		all = append(all, k)
	}
	return all, nil
}

// The commands, TPM_CC.
const (
	readPublic   = 0x173
	nvReadPublic = 0x169
	nvRead       = 0x14E
)

// command20 is a command of a TPM 2.0 with the given tag and handles; rest
// follows them.
func command20(tag uint16, code, handle uint32, rest ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = binary.BigEndian.AppendUint32(b, uint32(tpm.HeaderSize+4+len(rest)))
	b = binary.BigEndian.AppendUint32(b, code)
	b = binary.BigEndian.AppendUint32(b, handle)
	return append(b, rest...)
}

// execute executes a command and returns the response after its header, and its code.
func execute(e emul.Library, cmd []byte) (body []byte, code uint32, err error) {
	rsp, err := e.Process(cmd)
	if err != nil {
		return nil, 0, err
	}
	h, ok := tpm.ParseHeader(rsp)
	if !ok {
		return nil, 0, fmt.Errorf("a response of %d bytes", len(rsp))
	}
	return rsp[tpm.HeaderSize:], uint32(h.Code), nil
}

// readIndex returns the content of an NV index, nil if it does not exist. It uses the
// authorization of the platform, which may read the indices of the manufacturer and whose password
// is empty after a start.
//
//	TPM2_NV_ReadPublic: TPM2B_NV_PUBLIC: u32 index u16 hash u32 attributes TPM2B policy u16 size
//	TPM2_NV_Read: platform, index, authorization, u16 size u16 offset; u32, TPM2B
func readIndex(e emul.Library, index uint32) ([]byte, error) {
	const platform, chunk = 0x4000000C, 1024
	body, code, err := execute(e, command20(0x8001, nvReadPublic, index))
	if err != nil || code != 0 {
		return nil, err
	}
	c := cursor{b: body}
	c.take(2 + 4 + 2 + 4)
	c.sized()
	size := int(c.u16())
	if c.bad {
		return nil, errors.New("truncated public area")
	}
	var content []byte
	for len(content) < size {
		n := min(chunk, size-len(content))
		rest := binary.BigEndian.AppendUint32(nil, index)
		rest = append(rest, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0) // TPM_RS_PW, no password
		rest = binary.BigEndian.AppendUint16(rest, uint16(n))
		rest = binary.BigEndian.AppendUint16(rest, uint16(len(content)))
		body, code, err := execute(e, command20(0x8002, nvRead, platform, rest...))
		if err != nil {
			return nil, err
		}
		if code != 0 {
			return nil, fmt.Errorf("TPM2_NV_Read returns 0x%x", code)
		}
		c := cursor{b: body}
		c.take(4)
		part := c.sized()
		if c.bad || len(part) != n {
			return nil, errors.New("TPM2_NV_Read returns too few bytes")
		}
		content = append(content, part...)
	}
	return content, nil
}

// cursor decodes big-endian structures; bad is set at an unexpected end.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.b, c.bad = nil, true
		return nil
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) sized() []byte { return c.take(int(c.u16())) }

// parseEK decodes a TPM2B_PUBLIC of an RSA or ECC key.
//
//	u16 size, u16 type u16 hash u32 attributes TPM2B policy
//	symmetric: u16, and two u16 unless it is NULL; scheme: u16, and u16 unless NULL
//	RSA: u16 bits u32 exponent TPM2B modulus;  ECC: u16 curve u16 kdf TPM2B x TPM2B y
func parseEK(b []byte) (EK, error) {
	const algRSA, algECC, algNull = 0x0001, 0x0023, 0x0010
	c := cursor{b: b}
	c.u16()
	alg := c.u16()
	c.take(2 + 4)
	c.sized()
	if c.u16() != algNull {
		c.take(4)
	}
	if c.u16() != algNull {
		c.take(2)
	}
	var spki []byte
	var name string
	switch size := c.u16(); alg {
	case algRSA:
		name = fmt.Sprintf("rsa%d", size)
		exponent := c.take(4)
		if modulus := c.sized(); !c.bad {
			spki = rsaInfo(modulus, exponent)
		}
	case algECC:
		if size < 3 || int(size) >= 3+len(curves) {
			return EK{}, fmt.Errorf("unexpected curve 0x%04x of an EK", size)
		}
		curve := curves[size-3]
		c.u16()
		name = curve.name
		x, y := c.sized(), c.sized()
		if !c.bad && len(x) <= curve.size && len(y) <= curve.size {
			spki = eccInfo(curve.oid, padded(x, curve.size), padded(y, curve.size))
		}
	default:
		return EK{}, fmt.Errorf("unexpected algorithm 0x%04x of an EK", alg)
	}
	if spki == nil {
		return EK{}, errors.New("truncated public area")
	}
	return newEK(name, spki), nil
}

// newEK returns a key with this SubjectPublicKeyInfo.
func newEK(algorithm string, spki []byte) EK {
	sum := sha256.Sum256(spki)
	return EK{Algorithm: algorithm, Fingerprint: hex.EncodeToString(sum[:]), PublicKey: pemText("PUBLIC KEY", spki)}
}

// curves are those of EKs, from TPM_ECC_CURVE 3: the contents of their object
// identifiers, and the size of a coordinate in bytes.
var curves = [...]struct {
	name string
	size int
	oid  string
}{
	{"secp256r1", 32, "\x2a\x86\x48\xce\x3d\x03\x01\x07"},
	{"secp384r1", 48, "\x2b\x81\x04\x00\x22"},
	{"secp521r1", 66, "\x2b\x81\x04\x00\x23"},
}

// padded returns b with zeros before it.
func padded(b []byte, size int) []byte { return append(make([]byte, size-len(b)), b...) }

// Tags of DER. crypto/x509 would cost each emulator memory.
const (
	derInteger   = 0x02
	derBitString = 0x03
	derNull      = 0x05
	derOID       = 0x06
	derSequence  = 0x30
)

// der encodes a value of DER that consists of the parts.
func der(tag byte, parts ...[]byte) []byte {
	var n int
	for _, p := range parts {
		n += len(p)
	}
	b := []byte{tag}
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	default:
		b = append(b, 0x82, byte(n>>8), byte(n))
	}
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// integer encodes a positive number.
func integer(b []byte) []byte {
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	if len(b) == 0 || b[0] >= 0x80 {
		return der(derInteger, []byte{0}, b)
	}
	return der(derInteger, b)
}

// rsaInfo and eccInfo return the SubjectPublicKeyInfo of a key. An exponent of 0
// stands for 65537.
//
// Source: RFC 8017, A.1; RFC 5480, 2.
func rsaInfo(modulus, exponent []byte) []byte {
	if binary.BigEndian.Uint32(exponent) == 0 {
		exponent = []byte{1, 0, 1}
	}
	const rsaEncryption = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"
	key := der(derSequence, integer(modulus), integer(exponent))
	return der(derSequence, der(derSequence, der(derOID, []byte(rsaEncryption)), der(derNull)), der(derBitString, []byte{0}, key))
}

func eccInfo(curve string, x, y []byte) []byte {
	const ecPublicKey = "\x2a\x86\x48\xce\x3d\x02\x01"
	return der(derSequence, der(derSequence, der(derOID, []byte(ecPublicKey)), der(derOID, []byte(curve))),
		der(derBitString, []byte{0, 4}, x, y))
}

// pemText encodes DER as PEM.
func pemText(label string, b []byte) string {
	const width = 64
	text := base64.StdEncoding.EncodeToString(b)
	var out strings.Builder
	fmt.Fprintf(&out, "-----BEGIN %s-----\n", label)
	for len(text) > width {
		out.WriteString(text[:width] + "\n")
		text = text[width:]
	}
	fmt.Fprintf(&out, "%s\n-----END %s-----\n", text, label)
	return out.String()
}
