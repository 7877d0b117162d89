package ledger

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // a PCR bank
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
)

// hash returns a new hash of the algorithm, nil for an unknown one.
func (a Alg) hash() hash.Hash {
	switch a {
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	case SHA512:
		return sha512.New()
	}
	return nil
}

// State is the values of PCRs.
type State struct {
	banks map[Alg]*[PCRs][]byte // nil where a bank does not have a PCR
}

// Value returns the value of a PCR, nil if the bank does not have it.
func (s *State) Value(alg Alg, pcr int) []byte {
	if b := s.banks[alg]; b != nil && pcr >= 0 && pcr < PCRs {
		return b[pcr]
	}
	return nil
}

// Banks returns all values in the order of the algorithms' numbers.
func (s *State) Banks() []Bank {
	var all []Bank
	for _, alg := range []Alg{SHA1, SHA256, SHA384, SHA512} {
		values := s.banks[alg]
		if values == nil {
			continue
		}
		b := Bank{Alg: alg}
		for pcr, v := range values {
			if v != nil {
				b.Mask |= 1 << pcr
				b.Values = append(b.Values, v)
			}
		}
		all = append(all, b)
	}
	return all
}

// set makes banks the values. A PCR that they do not have is removed.
func (s *State) set(banks []Bank) {
	s.banks = map[Alg]*[PCRs][]byte{}
	for _, b := range banks {
		var values [PCRs][]byte
		all := make([]byte, 0, len(b.Values)*b.Alg.Size())
		for pcr := range values {
			if v := b.Value(pcr); v != nil {
				begin := len(all)
				all = append(all, v...)
				values[pcr] = all[begin:len(all):len(all)]
			}
		}
		s.banks[b.Alg] = &values
	}
}

// extend extends a PCR in the banks that have it; a TPM ignores the digest of another one.
func (s *State) extend(pcr int, digests []Digest) {
	for _, d := range digests {
		old := s.Value(d.Alg, pcr)
		if old == nil {
			continue
		}
		h := d.Alg.hash()
		h.Write(old)
		h.Write(d.Value)
		s.banks[d.Alg][pcr] = h.Sum(nil)
	}
}

// reset sets PCRs first to last to zero in all banks.
func (s *State) reset(first, last int) {
	for alg, b := range s.banks {
		for pcr := first; pcr <= last; pcr++ {
			if b[pcr] != nil {
				b[pcr] = make([]byte, alg.Size())
			}
		}
	}
}

// NewState returns a State without values.
func NewState() *State { return &State{} }

// Set makes banks the values.
func (s *State) Set(banks []Bank) { s.set(banks) }

// Apply makes the change that a record describes. It fails with ErrDamaged if the body is
// malformed.
func (s *State) Apply(r Record) error {
	switch r.Kind {
	case KindExtend:
		e, err := r.Extend()
		if err != nil {
			return err
		}
		if !e.NV() {
			s.extend(int(e.Index), e.Digests)
		}
	case KindReset:
		pcr, err := r.Reset()
		if err != nil {
			return err
		}
		s.reset(pcr, pcr)
	case KindSequence:
		s.reset(17, 22)
	case KindValues:
		_, banks, err := r.Values()
		if err != nil {
			return err
		}
		s.set(banks)
	}
	return nil
}

// Replay computes the values of the PCRs from the records. step, if it is not nil, is
// called after each record with the values then, which it must not keep. The boot is
// joined if values of its beginning are not known from records. It fails with ErrDamaged
// if a body is malformed.
func (b *Boot) Replay(step func(n int, r Record, s *State)) (s *State, joined bool, err error) {
	s = &State{}
	for n, r := range b.Records {
		if err := s.Apply(r); err != nil {
			return nil, false, err
		}
		joined = joined || r.Kind == KindValues && r.Body[0] == Joined
		if step != nil {
			step(n, r, s)
		}
	}
	return s, joined, nil
}

// Check compares the replayed values with those that the TPM reports. Its error names the
// first PCR that differs.
func (s *State) Check(banks []Bank) error {
	for _, b := range banks {
		for pcr := range PCRs {
			want := b.Value(pcr)
			if want == nil {
				continue
			}
			if got := s.Value(b.Alg, pcr); !bytes.Equal(got, want) {
				return fmt.Errorf("PCR %d of bank %v: the records give %x, the TPM has %x", pcr, b.Alg, got, want)
			}
		}
	}
	return nil
}

// Digest returns the digest over the values of selected PCRs, as TPM2_PolicyPCR computes it.
// PCRs that a bank does not have are left out.
func (s *State) Digest(alg Alg, selection []Bank) []byte {
	h := alg.hash()
	if h == nil {
		return nil
	}
	for _, b := range selection {
		for pcr := range PCRs {
			if b.Has(pcr) {
				h.Write(s.Value(b.Alg, pcr))
			}
		}
	}
	return h.Sum(nil)
}
