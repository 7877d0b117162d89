package signer

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// pkcs11URI is a parsed pkcs11: URI. Fields that are "" or nil match everything.
type pkcs11URI struct {
	token, manufacturer, serial, model string
	slot                               *uint // slot-id
	object                             string
	id                                 []byte

	modulePath, moduleName string
	pin                    *string // pin-value
	pinSource              string
}

// parsePKCS11 parses a URI
//
//	pkcs11:NAME=VALUE;NAME=VALUE…[?NAME=VALUE&NAME=VALUE…]
//
// whose values may have %XX for a byte. It must be the URI of a private key. Attributes
// that do not identify a key, such as the version of a library, are ignored.
//
// Source: RFC 7512, 2.3.
func parsePKCS11(s string) (*pkcs11URI, error) {
	path, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return nil, errors.New("it is not a pkcs11: URI")
	}
	path, query, _ := strings.Cut(path, "?")
	u := &pkcs11URI{}
	if err := u.fill(path, ";"); err != nil {
		return nil, err
	}
	if err := u.fill(query, "&"); err != nil {
		return nil, err
	}
	if u.object == "" && u.id == nil {
		return nil, errors.New("the URI names no key: object= or id= is missing")
	}
	return u, nil
}

// fill sets the fields from the attributes in s, separated by sep.
func (u *pkcs11URI) fill(s, sep string) error {
	seen := make(map[string]bool)
	for _, attribute := range strings.Split(s, sep) {
		if attribute == "" {
			continue
		}
		name, raw, ok := strings.Cut(attribute, "=")
		if !ok {
			return fmt.Errorf("%q in the URI has no value", attribute)
		}
		value, err := url.PathUnescape(raw)
		if err != nil {
			return fmt.Errorf("the value of %s in the URI is not percent-encoded: %w", name, err)
		}
		if seen[name] {
			return fmt.Errorf("the URI has %s twice", name)
		}
		seen[name] = true
		if err := u.set(name, value); err != nil {
			return err
		}
	}
	return nil
}

func (u *pkcs11URI) set(name, value string) error {
	switch name {
	case "token":
		u.token = value
	case "manufacturer":
		u.manufacturer = value
	case "serial":
		u.serial = value
	case "model":
		u.model = value
	case "object":
		u.object = value
	case "id":
		u.id = []byte(value)
	case "slot-id":
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return fmt.Errorf("slot-id %q in the URI is not a number", value)
		}
		id := uint(n)
		u.slot = &id
	case "type":
		if value != "private" {
			return fmt.Errorf("type %q in the URI is not a private key", value)
		}
	case "module-path":
		u.modulePath = value
	case "module-name":
		if strings.Contains(value, "/") {
			return fmt.Errorf("module-name %q in the URI is a path", value)
		}
		u.moduleName = value
	case "pin-value":
		u.pin = &value
	case "pin-source":
		u.pinSource = value
	}
	return nil
}

// maxPIN is the size limit of a file with a PIN in bytes.
const maxPIN = 4096

// readPIN returns the PIN in the URI. If the URI has none, it returns password, and if that is
// empty, it returns pin, which may be "".
func (u *pkcs11URI) readPIN(password []byte, pin string) (string, error) {
	switch {
	case u.pin != nil:
		return *u.pin, nil
	case u.pinSource != "":
		b, err := safefile.ReadInput(strings.TrimPrefix(strings.TrimPrefix(u.pinSource, "file:"), "//"), maxPIN)
		if err != nil {
			return "", fmt.Errorf("pin-source of the URI: %w", err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	case len(password) > 0:
		return string(password), nil
	}
	return pin, nil
}
