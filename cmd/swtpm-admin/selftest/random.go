package selftest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/google/go-tpm/tpm2"
)

func randomChecks() []check {
	return []check{
		{name: "random", run: randomSane},
		{name: "random-restart", run: randomRestart},
		{name: "primary-key", run: primaryKey},
	}
}

// random returns n random bytes from the TPM.
func (b *bench) random(n int) ([]byte, error) {
	var all []byte
	for len(all) < n {
		rsp, err := tpm2.GetRandom{BytesRequested: uint16(min(n-len(all), 32))}.Execute(b)
		if err != nil {
			return nil, fmt.Errorf("TPM2_GetRandom: %w", err)
		}
		if len(rsp.RandomBytes.Buffer) == 0 {
			return nil, errors.New("TPM2_GetRandom: no bytes")
		}
		all = append(all, rsp.RandomBytes.Buffer...)
	}
	return all, nil
}

// randomSane checks that no block repeats and that there are as many ones as zeros. The
// bound is eight standard deviations: a good generator passes it always.
func randomSane(b *bench) error {
	r, err := b.random(8192)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	ones := 0
	for block := range chunks(r, 16) {
		if seen[string(block)] {
			return fmt.Errorf("TPM2_GetRandom returned %x twice", block)
		}
		seen[string(block)] = true
		for _, c := range block {
			ones += bits.OnesCount8(c)
		}
	}
	all := float64(8 * len(r))
	if off := math.Abs(float64(ones) - all/2); off > 8*math.Sqrt(all)/2 {
		return fmt.Errorf("TPM2_GetRandom: %d of %.0f bits are set", ones, all)
	}
	return nil
}

func chunks(b []byte, n int) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for ; len(b) >= n; b = b[n:] {
			if !yield(b[:n]) {
				return
			}
		}
	}
}

// randomRestart checks that two TPMs do not begin with the same random numbers.
func randomRestart(b *bench) error {
	var last []byte
	for range 3 {
		if err := b.Restart(nil); err != nil {
			return err
		}
		r, err := b.random(32)
		if err != nil {
			return err
		}
		if bytes.Equal(r, last) {
			return fmt.Errorf("after a restart TPM2_GetRandom returned %x again", r)
		}
		last = r
	}
	return nil
}

// primaryKey checks that a primary key depends on the seed and the template only. A TPM creates its
// storage key again from the seed, and cannot unseal what it has sealed if the key differs.
func primaryKey(b *bench) error {
	template := freshRSA()
	var first []byte
	for i := range 2 {
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(b)
		if err != nil {
			return fmt.Errorf("TPM2_CreatePrimary: %w", err)
		}
		_, _ = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(b)
		if i > 0 {
			return differ("name of the primary key", rsp.Name.Buffer, first)
		}
		first = rsp.Name.Buffer
	}
	return nil
}
