//go:build !cgo

package signer

import "errors"

// openToken refuses: modules of PKCS#11 are libraries of C.
func openToken(*pkcs11URI, Source) (*Key, error) {
	return nil, errors.New("this program was built without cgo and cannot use PKCS#11")
}
