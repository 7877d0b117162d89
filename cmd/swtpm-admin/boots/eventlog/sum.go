package eventlog

import (
	"crypto/sha1" //nolint:gosec // a PCR bank
	"crypto/sha256"
	"crypto/sha512"
	"hash"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// NewHash returns a hash of the algorithm, nil for an unknown one.
func NewHash(alg ledger.Alg) hash.Hash {
	switch alg {
	case ledger.SHA1:
		return sha1.New()
	case ledger.SHA256:
		return sha256.New()
	case ledger.SHA384:
		return sha512.New384()
	case ledger.SHA512:
		return sha512.New()
	}
	return nil
}

// Sum returns the digest of data, nil for an unknown algorithm.
func Sum(alg ledger.Alg, data []byte) []byte {
	h := NewHash(alg)
	if h == nil {
		return nil
	}
	h.Write(data)
	return h.Sum(nil)
}
