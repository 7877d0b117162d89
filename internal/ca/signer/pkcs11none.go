//go:build !cgo

package signer

import "errors"

// openToken returns an error, because PKCS #11 modules are C libraries.
func openToken(*pkcs11URI, Source) (*Key, error) {
	return nil, errors.New("this program was built without cgo and cannot use PKCS#11")
}
