package cert

import (
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// extension is an extension of a certificate; value adds the content of its OCTET STRING.
type extension struct {
	id       asn1.ObjectIdentifier
	critical bool
	value    func(b *cryptobyte.Builder)
}

// add adds
//
//	Extension ::= SEQUENCE { OBJECT IDENTIFIER, BOOLEAN DEFAULT FALSE, OCTET STRING }
func (e extension) add(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(e.id)
		if e.critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1(cbasn1.OCTET_STRING, e.value)
	})
}

// Extensions of certificates.
//
// Source: RFC 5280, 4.2.1.
var (
	idSubjectDirectoryAttributes = asn1.ObjectIdentifier{2, 5, 29, 9}
	idKeyUsage                   = asn1.ObjectIdentifier{2, 5, 29, 15}
	idSubjectAltName             = asn1.ObjectIdentifier{2, 5, 29, 17}
	idBasicConstraints           = asn1.ObjectIdentifier{2, 5, 29, 19}
	idAuthorityKeyIdentifier     = asn1.ObjectIdentifier{2, 5, 29, 35}
	idExtKeyUsage                = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// Object identifiers of the TCG. An attribute of TPM or platform is 2.23.133
// and one of these.
//
// Source: TCG EK Credential Profile 2.3, 5; TCG Platform Attribute Credential
// Profile; for those of TPM 1.2: TCG Credential Profiles V1.2, 4.
var (
	idHWType                = asn1.ObjectIdentifier{2, 23, 133, 1, 2}          // tcg-on-hardware: a TPM 2.0
	idTPMSpecification      = asn1.ObjectIdentifier{2, 23, 133, 2, 16}         // tcg-at-tpmSpecification
	idEKCertificate         = asn1.ObjectIdentifier{2, 23, 133, 8, 1}          // tcg-kp-EKCertificate
	idPlatformCertificate   = asn1.ObjectIdentifier{2, 23, 133, 8, 2}          // tcg-kp-PlatformCertificate
	idOnHardwareModuleName  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4} // RFC 4108, id-on-hardwareModuleName
	tpmAttributes           = attributeIDs{{2, 23, 133, 2, 1}, {2, 23, 133, 2, 2}, {2, 23, 133, 2, 3}}
	platformAttributes      = attributeIDs{{2, 23, 133, 5, 1, 1}, {2, 23, 133, 5, 1, 4}, {2, 23, 133, 5, 1, 5}}
	platformAttributesTPM12 = attributeIDs{{2, 23, 133, 2, 4}, {2, 23, 133, 2, 5}, {2, 23, 133, 2, 6}}
)

// attributeIDs are the object identifiers of manufacturer, model and version.
type attributeIDs [3]asn1.ObjectIdentifier

// Bits of KeyUsage as they are in its first byte.
//
// Source: RFC 5280, 4.2.1.3.
const (
	digitalSignature = 0x80
	keyEncipherment  = 0x20
	keyAgreement     = 0x08
)

// extensions returns the extensions of the certificate, in the order of the reference. ski is
// the identifier of the issuer's key.
func (r *Request) extensions(ski []byte) []extension {
	all := []extension{
		{idSubjectAltName, r.criticalSAN(), r.subjectAltName},
		{idBasicConstraints, true, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(*cryptobyte.Builder) {}) // cA is FALSE by default
		}},
	}
	if r.Type == EK {
		all = append(all, extension{idSubjectDirectoryAttributes, false, r.subjectDirectoryAttributes})
	}
	all = append(all,
		extension{idAuthorityKeyIdentifier, false, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(ski) })
			})
		}},
		extension{idKeyUsage, true, func(b *cryptobyte.Builder) { addBits(b, r.keyUsage()) }})
	if purpose := r.purpose(); purpose != nil {
		all = append(all, extension{idExtKeyUsage, false, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(purpose) })
		}})
	}
	return append(all, r.Locations.extensions()...)
}

// criticalSAN reports whether the subject alternative name is critical. It must be
// if there is no subject (RFC 5280, 4.1.2.6), as in a certificate of a TPM 1.2.
func (r *Request) criticalSAN() bool {
	if r.Type != EK && r.Type != Platform {
		return false
	}
	subject, err := r.subject()
	hasSubject := err == nil && len(subject) > len(emptyName)
	return !r.NonCriticalSAN || !hasSubject
}

// purpose returns the extended key usage, nil for none.
func (r *Request) purpose() asn1.ObjectIdentifier {
	switch r.Type {
	case EK:
		return idEKCertificate
	case Platform:
		return idPlatformCertificate
	}
	return nil
}

// keyUsage returns the bits of KeyUsage.
//
// Compat: C-266: swtpm_cert sets keyAgreement for an ECC key given by coordinates, but
// keyEncipherment for the same key in a PEM file.
func (r *Request) keyUsage() byte {
	decrypt := byte(keyEncipherment)
	if r.Key.agreement {
		decrypt = keyAgreement
	}
	switch {
	case r.Type == IAK || r.Type == IDevID:
		return digitalSignature
	case !r.TPM2:
		return keyEncipherment
	case r.Signing && r.Decryption:
		return digitalSignature | decrypt
	case r.Signing:
		return digitalSignature
	}
	return decrypt
}

// addBits adds a BIT STRING of one byte, without the zero bits at its end.
func addBits(b *cryptobyte.Builder, bits byte) {
	unused := byte(0)
	for bits>>unused&1 == 0 && unused < 7 {
		unused++
	}
	b.AddASN1(cbasn1.BIT_STRING, func(b *cryptobyte.Builder) { b.AddBytes([]byte{unused, bits}) })
}

// subjectAltName adds
//
//	GeneralNames ::= SEQUENCE { [4] { directoryName } }
//
// whose directoryName describes the TPM or platform.
func (r *Request) subjectAltName(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(4).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			switch {
			case r.Type == IAK || r.Type == IDevID:
				r.hardwareModule(b)
			case r.Type == EK:
				r.TPM.add(b, tpmAttributes)
			case r.TPM2:
				r.Platform.add(b, platformAttributes)
			default:
				// Compat: C-267: swtpm_cert writes two names into one sequence,
				// which is not a valid name.
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					r.TPM.add(b, tpmAttributes)
					r.Platform.add(b, platformAttributesTPM12)
				})
			}
		})
	})
}

// add adds a Name: a SEQUENCE of three SETs of one attribute each.
func (a Attributes) add(b *cryptobyte.Builder, ids attributeIDs) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for i, value := range []string{a.Manufacturer, a.Model, a.Version} {
			addRDN(b, ids[i], cbasn1.UTF8String, value)
		}
	})
}

// hardwareModule adds a Name of one attribute
//
//	HardwareModuleName ::= SEQUENCE { hwType OBJECT IDENTIFIER, hwSerialNum OCTET STRING }
//
// Source: RFC 4108, 5.
func (r *Request) hardwareModule(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addAttribute(b, idOnHardwareModuleName, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(idHWType)
				b.AddASN1OctetString([]byte(r.TPMSerial))
			})
		})
	})
}

// subjectDirectoryAttributes adds one attribute whose value is
//
//	TPMSpecification ::= SEQUENCE { family UTF8String, level INTEGER, revision INTEGER }
//
// Source: TCG EK Credential Profile, 3.2.
func (r *Request) subjectDirectoryAttributes(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(idTPMSpecification)
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					utf8String(b, r.Spec.Family)
					b.AddASN1Int64(int64(r.Spec.Level))
					b.AddASN1Int64(int64(r.Spec.Revision))
				})
			})
		})
	})
}
