package ledger

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // a PCR bank
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
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

// algs has the algorithms of banks in the order of their numbers.
var algs = [...]Alg{SHA1, SHA256, SHA384, SHA512}

// bankSizes is the sum of the sizes of digests of algs, bankStart where each begins in it.
const bankSizes = 20 + 32 + 48 + 64

var bankStart = [len(algs)]int{0, 20, 20 + 32, 20 + 32 + 48}

// State contains the values of the PCRs. It has no pointers, because package recorder puts it into
// memory that Go does not manage.
type State struct {
	masks  [len(algs)]uint32 // PCRs of each bank
	values [PCRs * bankSizes]byte
}

// bank returns the index of the algorithm in algs, -1 for an unknown one.
func (a Alg) bank() int {
	for i, b := range algs {
		if a == b {
			return i
		}
	}
	return -1
}

// slot returns the bytes of s in which the value of a PCR is.
func (s *State) slot(bank, pcr int) []byte {
	size := algs[bank].Size()
	at := PCRs*bankStart[bank] + pcr*size
	return s.values[at : at+size : at+size]
}

// Value returns the value of a PCR, nil if the bank does not have it. The bytes belong to the
// State, whose changes change them.
func (s *State) Value(alg Alg, pcr int) []byte {
	if b := alg.bank(); b >= 0 && pcr >= 0 && pcr < PCRs && s.masks[b]>>pcr&1 != 0 {
		return s.slot(b, pcr)
	}
	return nil
}

// Put sets the value of one PCR.
func (s *State) Put(alg Alg, pcr int, value []byte) {
	if b := alg.bank(); b >= 0 && len(value) == alg.Size() {
		s.masks[b] |= 1 << pcr
		copy(s.slot(b, pcr), value)
	}
}

// Retain removes the PCRs that are not in the masks: one mask for each of the banks SHA-1,
// SHA-256, SHA-384 and SHA-512, in this order.
func (s *State) Retain(masks [4]uint32) {
	for i := range s.masks {
		s.masks[i] &= masks[i]
	}
}

// Banks returns a copy of all values in the order of the algorithms' numbers.
func (s *State) Banks() []Bank {
	var all []Bank
	for i, alg := range algs {
		if s.masks[i] == 0 {
			continue
		}
		b := Bank{Alg: alg, Mask: s.masks[i]}
		for pcr := range PCRs {
			if b.Has(pcr) {
				b.Values = append(b.Values, bytes.Clone(s.slot(i, pcr)))
			}
		}
		all = append(all, b)
	}
	return all
}

// AppendValues appends the body of KindValues with all values.
func (s *State) AppendValues(b []byte, reason uint8) []byte {
	b = append(b, reason, 0)
	count := len(b) - 1
	for i, alg := range algs {
		if s.masks[i] == 0 {
			continue
		}
		b[count]++
		b = binary.BigEndian.AppendUint16(b, uint16(alg))
		b = binary.BigEndian.AppendUint32(b, s.masks[i])
		for pcr := range PCRs {
			if s.masks[i]>>pcr&1 != 0 {
				b = append(b, s.slot(i, pcr)...)
			}
		}
	}
	return b
}

// Extend extends a PCR in the banks that have it; a TPM ignores the digest of another one.
func (s *State) Extend(pcr int, digests []Digest) {
	for _, d := range digests {
		if old := s.Value(d.Alg, pcr); old != nil {
			extend(d.Alg, old, d.Value)
		}
	}
}

// extend replaces a value by the digest of value and more. There is a function for each size,
// because one with buffers for all sizes would need a larger stack.
func extend(alg Alg, value, more []byte) {
	switch alg {
	case SHA1:
		extendSHA1(value, more)
	case SHA256:
		extendSHA256(value, more)
	case SHA384:
		extendSHA384(value, more)
	case SHA512:
		extendSHA512(value, more)
	}
}

func extendSHA1(value, more []byte) {
	var in [2 * sha1.Size]byte
	sum := sha1.Sum(append(append(in[:0], value...), more...)) //nolint:gosec // a PCR bank
	copy(value, sum[:])
}

func extendSHA256(value, more []byte) {
	var in [2 * sha256.Size]byte
	sum := sha256.Sum256(append(append(in[:0], value...), more...))
	copy(value, sum[:])
}

func extendSHA384(value, more []byte) {
	var in [2 * sha512.Size384]byte
	sum := sha512.Sum384(append(append(in[:0], value...), more...))
	copy(value, sum[:])
}

func extendSHA512(value, more []byte) {
	var in [2 * sha512.Size]byte
	sum := sha512.Sum512(append(append(in[:0], value...), more...))
	copy(value, sum[:])
}

// Reset sets PCRs first to last to zero in all banks.
func (s *State) Reset(first, last int) {
	for i := range algs {
		for pcr := first; pcr <= last; pcr++ {
			clear(s.slot(i, pcr))
		}
	}
}

// NewState returns a State without values.
func NewState() *State { return &State{} }

// Set replaces all values by those of banks. A PCR that they do not have is removed.
func (s *State) Set(banks []Bank) {
	s.masks = [len(algs)]uint32{}
	for _, b := range banks {
		for pcr := range PCRs {
			if v := b.Value(pcr); v != nil {
				s.Put(b.Alg, pcr, v)
			}
		}
	}
}

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
			s.Extend(int(e.Index), e.Digests)
		}
	case KindReset:
		pcr, err := r.Reset()
		if err != nil {
			return err
		}
		s.Reset(pcr, pcr)
	case KindSequence:
		s.Reset(firstLaunch, lastLaunch)
	case KindValues:
		_, banks, err := r.Values()
		if err != nil {
			return err
		}
		s.Set(banks)
	}
	return nil
}

// HASH_START resets these PCRs.
const firstLaunch, lastLaunch = 17, 22

// Launch resets the PCRs of a dynamic launch.
func (s *State) Launch() { s.Reset(firstLaunch, lastLaunch) }

// Replay computes the values of the PCRs from the records. step, if it is not nil, is
// called after each record with the values at that time, which it must not retain. joined
// reports that at some record the values were taken from the TPM (reason Joined), because the
// records before it do not give them. Replay fails with ErrDamaged if a body is malformed.
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

// Incomplete reports whether measurements before the record n, counted from 1, are missing and
// no KindValues makes up for them, so that the replay up to n differs from the TPM. An n of 0
// stands for the whole file.
//
// A KindOverflow begins such a part, and KindValues ends it. Former versions wrote no
// KindOverflow at the limit, so that a full file without one may lack measurements as long as the
// boot has not ended.
func (b *Boot) Incomplete(n int) bool {
	open, marked, ended, count := false, false, false, 0
	for i, r := range b.Records {
		if n > 0 && i >= n {
			break
		}
		count++
		switch r.Kind {
		case KindOverflow:
			open, marked = true, true
		case KindValues:
			open = false
		case KindRestart:
			ended, marked, count = false, false, 0
		case KindEnd:
			ended = true
		}
	}
	return open || !marked && !ended && count >= MaxMeasured
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
