package eventlog

import (
	"crypto/x509"
	"encoding/binary"
)

// maxSignatures bounds the entries of a signature database.
const maxSignatures = 16384

// Signature is an entry of a signature database: a certificate or a digest.
type Signature struct {
	Owner   GUID
	Data    []byte
	Subject string // of a certificate; "" for a digest
}

// Measured returns the EFI_SIGNATURE_DATA of s, which firmware measures as the authority
// that allowed an image.
func (s Signature) Measured() []byte { return append(s.Owner[:], s.Data...) }

// x509Signature is the type of a list of certificates.
var x509Signature = newGUID(0xa5c059a1, 0x94e4, 0x4aa7, [8]byte{0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72})

// ParseSignatures returns the entries of a database such as db or dbx, as far as it is
// well-formed.
//
// Source: UEFI Specification 2.10, 32.4.1: type, u32 size of the list, u32 size of a
// header, u32 size of an entry; the header; the entries: owner, data.
func ParseSignatures(b []byte) []Signature {
	const fixed = 28
	var all []Signature
	for len(b) >= fixed {
		size, head, each := uint64(binary.LittleEndian.Uint32(b[16:])), uint64(binary.LittleEndian.Uint32(b[20:])), uint64(binary.LittleEndian.Uint32(b[24:]))
		if size > uint64(len(b)) || fixed+head > size || each <= 16 {
			break
		}
		certificates := GUID(b) == x509Signature
		for list := b[fixed+head : size]; uint64(len(list)) >= each; list = list[each:] {
			s := Signature{Owner: GUID(list), Data: list[16:each]}
			if certificates {
				s.Subject = subject(s.Data)
			}
			if all = append(all, s); len(all) == maxSignatures {
				return all
			}
		}
		b = b[size:]
	}
	return all
}

// AppendCertificate appends a list with one certificate.
func AppendCertificate(b []byte, owner GUID, der []byte) []byte {
	const fixed = 28
	b = append(b, x509Signature[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(fixed+len(owner)+len(der)))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(owner)+len(der)))
	return append(append(b, owner[:]...), der...)
}

// subject returns the common name of a certificate, or its whole subject.
func subject(der []byte) string {
	c, err := x509.ParseCertificate(der)
	switch {
	case err != nil:
		return "certificate that cannot be read"
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	}
	return c.Subject.String()
}
