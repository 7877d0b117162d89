package selftest

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	_ "crypto/sha1" // the TPM's SHA-1 bank
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/hex"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// hashes are the algorithms that every build of libtpms has, with the digest of "abc".
//
// Source: FIPS 180-4; NIST, Cryptographic Standards and Guidelines, example values.
var hashes = []struct {
	name string
	alg  tpm2.TPMAlgID
	hash crypto.Hash
	abc  string
}{
	{"sha1", tpm2.TPMAlgSHA1, crypto.SHA1, "a9993e364706816aba3e25717850c26c9cd0d89d"},
	{"sha256", tpm2.TPMAlgSHA256, crypto.SHA256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
	{"sha384", tpm2.TPMAlgSHA384, crypto.SHA384, "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"},
	{"sha512", tpm2.TPMAlgSHA512, crypto.SHA512, "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"},
}

// lengths lie around the ends of the blocks and paddings of SHA-1 and SHA-2.
var lengths = []int{0, 1, 55, 56, 63, 64, 65, 111, 112, 127, 128, 129, 1000}

func hashChecks() []check {
	var all []check
	for _, h := range hashes {
		all = append(all,
			check{name: h.name, run: func(b *bench) error {
				want, _ := hex.DecodeString(h.abc)
				if err := b.hash(h.alg, []byte("abc"), want); err != nil {
					return err
				}
				for _, n := range lengths {
					text := bytes.Repeat([]byte{'a'}, n)
					if err := b.hash(h.alg, text, sum(h.hash, text)); err != nil {
						return err
					}
				}
				return nil
			}},
			check{name: h.name + "-sequence", run: func(b *bench) error { return b.sequence(h.alg, h.hash) }},
			check{name: "hmac-" + h.name, run: func(b *bench) error { return b.hmac(h.alg, h.hash) }})
	}
	return all
}

func sum(h crypto.Hash, text []byte) []byte {
	w := h.New()
	w.Write(text)
	return w.Sum(nil)
}

// differ returns an error unless got is want.
func differ(what string, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	return fmt.Errorf("%s: got %x, expected %x", what, got, want)
}

// hash checks TPM2_Hash with one text.
func (b *bench) hash(alg tpm2.TPMAlgID, text, want []byte) error {
	rsp, err := tpm2.Hash{Data: tpm2.TPM2BMaxBuffer{Buffer: text}, HashAlg: alg, Hierarchy: tpm2.TPMRHNull}.Execute(b)
	if err != nil {
		return fmt.Errorf("TPM2_Hash of %d bytes: %w", len(text), err)
	}
	return differ(fmt.Sprintf("TPM2_Hash of %d bytes", len(text)), rsp.OutHash.Buffer, want)
}

// sequence checks a hash over several commands.
func (b *bench) sequence(alg tpm2.TPMAlgID, h crypto.Hash) error {
	start, err := tpm2.HashSequenceStart{HashAlg: alg}.Execute(b)
	if err != nil {
		return fmt.Errorf("TPM2_HashSequenceStart: %w", err)
	}
	seq := tpm2.AuthHandle{Handle: start.SequenceHandle, Auth: tpm2.PasswordAuth(nil)}
	var text []byte
	for i, n := range lengths[1:] {
		part := bytes.Repeat([]byte{byte(i)}, n)
		text = append(text, part...)
		if _, err := (tpm2.SequenceUpdate{SequenceHandle: seq, Buffer: tpm2.TPM2BMaxBuffer{Buffer: part}}).Execute(b); err != nil {
			return fmt.Errorf("TPM2_SequenceUpdate: %w", err)
		}
	}
	rsp, err := tpm2.SequenceComplete{SequenceHandle: seq, Hierarchy: tpm2.TPMRHNull}.Execute(b)
	if err != nil {
		return fmt.Errorf("TPM2_SequenceComplete: %w", err)
	}
	return differ("hash sequence", rsp.Result.Buffer, sum(h, text))
}

// hmac checks TPM2_HMAC with a loaded key.
func (b *bench) hmac(alg tpm2.TPMAlgID, h crypto.Hash) error {
	key := bytes.Repeat([]byte{0x0b}, 20)
	handle, unload, err := b.loadHMAC(alg, key)
	if err != nil {
		return err
	}
	defer unload()
	for _, n := range lengths {
		text := bytes.Repeat([]byte{'a'}, n)
		rsp, err := tpm2.Hmac{Handle: handle, Buffer: tpm2.TPM2BMaxBuffer{Buffer: text}, HashAlg: alg}.Execute(b)
		if err != nil {
			return fmt.Errorf("TPM2_HMAC of %d bytes: %w", n, err)
		}
		w := hmac.New(h.New, key)
		w.Write(text)
		if err := differ(fmt.Sprintf("TPM2_HMAC of %d bytes", n), rsp.OutHMAC.Buffer, w.Sum(nil)); err != nil {
			return err
		}
	}
	return nil
}

// loadHMAC loads a key for HMAC without a scheme of its own.
func (b *bench) loadHMAC(alg tpm2.TPMAlgID, key []byte) (tpm2.AuthHandle, func(), error) {
	seed := make([]byte, alg2size(alg))
	return b.load(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgKeyedHash, NameAlg: alg, ObjectAttributes: keyAttributes(true, true), // a key for HMAC only needs a scheme
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull}}),
		Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{Buffer: unique(alg, seed, key)}),
	}, &tpm2.TPMTSensitive{
		SensitiveType: tpm2.TPMAlgKeyedHash,
		SeedValue:     tpm2.TPM2BDigest{Buffer: seed},
		Sensitive:     tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BSensitiveData{Buffer: key}),
	})
}

// unique is the public part of a symmetric object: the digest of its seed and its secret.
//
// Source: TCG TPM 2.0 Library, Part 1, section 27.5.3.2.
func unique(alg tpm2.TPMAlgID, seed, secret []byte) []byte {
	for _, h := range hashes {
		if h.alg == alg {
			return sum(h.hash, append(bytes.Clone(seed), secret...))
		}
	}
	return nil
}

func alg2size(alg tpm2.TPMAlgID) int {
	for _, h := range hashes {
		if h.alg == alg {
			return h.hash.Size()
		}
	}
	return 0
}
