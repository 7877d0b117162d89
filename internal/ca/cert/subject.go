package cert

import (
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// attributeType is an attribute of a name: its short and long name on a command line, and
// the type of its string.
type attributeType struct {
	short, long string
	id          asn1.ObjectIdentifier
	tag         cbasn1.Tag
}

// attributeTypes are the attributes of a subject.
//
// Source: RFC 4519, 2; RFC 5280, Appendix A.
var attributeTypes = []attributeType{
	{"CN", "commonName", asn1.ObjectIdentifier{2, 5, 4, 3}, cbasn1.UTF8String},
	{"SN", "surname", asn1.ObjectIdentifier{2, 5, 4, 4}, cbasn1.UTF8String},
	{"", "serialNumber", asn1.ObjectIdentifier{2, 5, 4, 5}, cbasn1.PrintableString},
	{"C", "countryName", asn1.ObjectIdentifier{2, 5, 4, 6}, cbasn1.PrintableString},
	{"L", "localityName", asn1.ObjectIdentifier{2, 5, 4, 7}, cbasn1.UTF8String},
	{"ST", "stateOrProvinceName", asn1.ObjectIdentifier{2, 5, 4, 8}, cbasn1.UTF8String},
	{"street", "streetAddress", asn1.ObjectIdentifier{2, 5, 4, 9}, cbasn1.UTF8String},
	{"O", "organizationName", asn1.ObjectIdentifier{2, 5, 4, 10}, cbasn1.UTF8String},
	{"OU", "organizationalUnitName", asn1.ObjectIdentifier{2, 5, 4, 11}, cbasn1.UTF8String},
	{"title", "", asn1.ObjectIdentifier{2, 5, 4, 12}, cbasn1.UTF8String},
	{"", "description", asn1.ObjectIdentifier{2, 5, 4, 13}, cbasn1.UTF8String},
	{"", "postalCode", asn1.ObjectIdentifier{2, 5, 4, 17}, cbasn1.UTF8String},
	{"name", "", asn1.ObjectIdentifier{2, 5, 4, 41}, cbasn1.UTF8String},
	{"GN", "givenName", asn1.ObjectIdentifier{2, 5, 4, 42}, cbasn1.UTF8String},
	{"", "initials", asn1.ObjectIdentifier{2, 5, 4, 43}, cbasn1.UTF8String},
	{"", "generationQualifier", asn1.ObjectIdentifier{2, 5, 4, 44}, cbasn1.UTF8String},
	{"", "dnQualifier", asn1.ObjectIdentifier{2, 5, 4, 46}, cbasn1.PrintableString},
	{"", "pseudonym", asn1.ObjectIdentifier{2, 5, 4, 65}, cbasn1.UTF8String},
	{"UID", "userId", asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, cbasn1.UTF8String},
	{"DC", "domainComponent", asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, cbasn1.IA5String},
	{"", "emailAddress", asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, cbasn1.IA5String},
}

// emptyName is a Name without attributes, in DER.
const emptyName = "\x30\x00"

// subject returns the certificate's subject in DER.
func (r *Request) subject() ([]byte, error) {
	if !r.TPM2 {
		return []byte(emptyName), nil
	}
	return parseSubject(r.Subject)
}

// parseSubject returns s, NAME=VALUE,NAME=VALUE…, as a Name in DER. Each attribute becomes
// an RDN, in the given order. Commas cannot be escaped. White space around names and
// values is ignored, and so are parts without "=".
func parseSubject(s string) ([]byte, error) {
	var b cryptobyte.Builder
	var err error
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, part := range strings.Split(s, ",") {
			name, value, ok := strings.Cut(part, "=")
			if !ok {
				continue
			}
			if e := addSubject(b, strings.TrimSpace(name), strings.TrimSpace(value)); e != nil && err == nil {
				err = fmt.Errorf("subject %q: %w", s, e)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return b.Bytes()
}

func addSubject(b *cryptobyte.Builder, name, value string) error {
	for _, t := range attributeTypes {
		if name != t.short && name != t.long || name == "" {
			continue
		}
		if err := t.check(value); err != nil {
			return fmt.Errorf("%s=%q: %w", name, value, err)
		}
		addRDN(b, t.id, t.tag, value)
		return nil
	}
	return fmt.Errorf("unknown attribute %q", name)
}

// check returns an error if s cannot be a value of t.
func (t attributeType) check(s string) error {
	switch {
	case s == "":
		return errors.New("the value is empty")
	case t.short == "C" && len(s) != 2:
		return errors.New("a country has two letters")
	case !utf8.ValidString(s):
		return errors.New("the value is not UTF-8")
	case t.tag == cbasn1.IA5String && strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f }):
		return errors.New("the value must be ASCII")
	case t.tag == cbasn1.PrintableString && strings.ContainsFunc(s, func(r rune) bool { return !printable(r) }):
		return errors.New("the value may have letters, digits, blanks and '()+,-./:=? only")
	}
	return nil
}

// printable reports whether r may be in a PrintableString.
func printable(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune(" '()+,-./:=?", r)
}

// addRDN adds a SET of one attribute whose value is a string.
func addRDN(b *cryptobyte.Builder, id asn1.ObjectIdentifier, tag cbasn1.Tag, value string) {
	addAttribute(b, id, func(b *cryptobyte.Builder) {
		b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(value)) })
	})
}

// addAttribute adds SET { SEQUENCE { OBJECT IDENTIFIER, value } }.
func addAttribute(b *cryptobyte.Builder, id asn1.ObjectIdentifier, value func(b *cryptobyte.Builder)) {
	b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(id)
			value(b)
		})
	})
}
