package ledger

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// PCRs is the number of PCRs of a bank.
const PCRs = 24

// firstNV is the first handle of an NV index in a TPM 2.0.
const firstNV = 0x01000000

// Extend is the body of KindExtend.
type Extend struct {
	Index   uint32   // PCR 0 to 23, or the handle of an NV index
	Code    uint32   // of the command, 0 for a dynamic launch
	Digests []Digest // of a PCR; for an NV index the SHA-256 of the data, none if that was encrypted
}

// NV reports whether the record is about an NV index.
func (e Extend) NV() bool { return e.Index >= firstNV }

// Size returns the size of the body in bytes.
func (e Extend) Size() int {
	n := 4 + 4 + 1
	for _, d := range e.Digests {
		n += 2 + len(d.Value)
	}
	return n
}

// Append appends e.
func (e Extend) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, e.Index)
	b = binary.BigEndian.AppendUint32(b, e.Code)
	return appendDigests(b, e.Digests)
}

func appendDigests(b []byte, digests []Digest) []byte {
	b = append(b, byte(len(digests)))
	for _, d := range digests {
		b = append(binary.BigEndian.AppendUint16(b, uint16(d.Alg)), d.Value...)
	}
	return b
}

// Bank is the PCRs of one algorithm. Values has a value for each bit of Mask, from the
// lowest one, or none at all where only the selection counts.
type Bank struct {
	Alg    Alg
	Mask   uint32
	Values [][]byte
}

// Has reports whether the bank has the PCR.
func (b Bank) Has(pcr int) bool { return b.Mask>>pcr&1 != 0 }

// Value returns the value of a PCR, nil if the bank does not have it.
func (b Bank) Value(pcr int) []byte {
	if !b.Has(pcr) {
		return nil
	}
	i := bits.OnesCount32(b.Mask & (1<<pcr - 1))
	if i >= len(b.Values) {
		return nil
	}
	return b.Values[i]
}

// AppendSelections appends the banks without their values: the body of KindAllocate.
func AppendSelections(b []byte, banks []Bank) []byte {
	b = append(b, byte(len(banks)))
	for _, k := range banks {
		b = binary.BigEndian.AppendUint16(b, uint16(k.Alg))
		b = binary.BigEndian.AppendUint32(b, k.Mask)
	}
	return b
}

// AppendValues appends the body of KindValues.
func AppendValues(b []byte, reason uint8, banks []Bank) []byte {
	size := 2
	for _, k := range banks {
		size += 2 + 4 + len(k.Values)*k.Alg.Size()
	}
	b = append(slices.Grow(b, size), reason, byte(len(banks)))
	for _, k := range banks {
		b = binary.BigEndian.AppendUint16(b, uint16(k.Alg))
		b = binary.BigEndian.AppendUint32(b, k.Mask)
		for _, v := range k.Values {
			b = append(b, v...)
		}
	}
	return b
}

// Policy is the body of KindPolicy: what a session with a policy over PCRs was used for.
//
//	off len
//	  0   4 result of the command, 0 for success, or NotUsed
//	  4   4 code of the command that used the session, or of the policy command that failed; 0 for NotUsed
//	  8   8 NameHash of the handle of a persistent object or NV index, zeros for others
//	 16   2 flags: the other policy commands of the session
//	 18   1 banks, and for each of them the 16-bit algorithm and the 32-bit mask of PCRs
//	  …   … digests: one with the digest over the PCRs that the policy asked for, or, if the
//	        policy names none, over their values then; none if it is not known
type Policy struct {
	Result  uint32
	Code    uint32
	Object  [8]byte
	Flags   PolicyFlags
	Banks   []Bank // selection of PolicyPCR, without values
	Digests []Digest
}

// NotUsed is the result of a policy session that no command used: the guest compared the policy
// itself, as systemd does, and gave up.
const NotUsed = 0xffffffff

// PolicyFlags are the policy commands of a session apart from PolicyPCR.
type PolicyFlags uint16

// The policy commands.
const (
	Authorized    PolicyFlags = 1 << iota // PolicyAuthorize
	AuthorizedNV                          // PolicyAuthorizeNV
	ComparedNV                            // PolicyNV
	KnewSecret                            // PolicySecret
	Signed                                // PolicySigned
	GavePassword                          // PolicyPassword or PolicyAuthValue
	Alternatives                          // PolicyOR
	OtherCommands                         // any other one
)

// Append appends p.
func (p Policy) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, p.Result)
	b = binary.BigEndian.AppendUint32(b, p.Code)
	b = append(b, p.Object[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(p.Flags))
	return appendDigests(AppendSelections(b, p.Banks), p.Digests)
}

// SamePolicy reports whether p and q ask for the same PCRs of the same object.
func (p Policy) SamePolicy(q Policy) bool {
	return p.Object == q.Object && slices.EqualFunc(p.Banks, q.Banks, func(a, b Bank) bool { return a.Alg == b.Alg && a.Mask == b.Mask })
}

// Overflow is the body of KindOverflow.
type Overflow struct {
	Records uint64 // that are missing
	NV      uint64 // of these, extends of NV indices
}

// Append appends o.
func (o Overflow) Append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, o.Records), o.NV)
}

// reader takes the fields out of a body.
type reader struct {
	left []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.left) {
		r.bad = true
		return nil
	}
	b := r.left[:n]
	r.left = r.left[n:]
	return b
}

func (r *reader) uint(n int) uint64 {
	v := uint64(0)
	for _, c := range r.take(n) {
		v = v<<8 | uint64(c)
	}
	return v
}

func (r *reader) digests() []Digest {
	var all []Digest
	for n := r.uint(1); n > 0 && !r.bad; n-- {
		alg := Alg(r.uint(2))
		if alg.Size() == 0 {
			r.bad = true
			break
		}
		all = append(all, Digest{alg, r.take(alg.Size())})
	}
	return all
}

func (r *reader) banks(values bool) []Bank {
	var all []Bank
	for n := r.uint(1); n > 0 && !r.bad; n-- {
		b := Bank{Alg: Alg(r.uint(2)), Mask: uint32(r.uint(4))}
		if b.Alg.Size() == 0 || b.Mask>>PCRs != 0 {
			r.bad = true
			break
		}
		for i := bits.OnesCount32(b.Mask); values && i > 0; i-- {
			b.Values = append(b.Values, r.take(b.Alg.Size()))
		}
		all = append(all, b)
	}
	return all
}

// done returns v, or an error if a field is incomplete or bytes are left over.
func done[V any](r *reader, k Kind, v V) (V, error) {
	if r.bad || len(r.left) > 0 {
		var none V
		return none, fmt.Errorf("%w: the body of a record of kind %d is malformed", ErrDamaged, k)
	}
	return v, nil
}

// Extend returns the body of a KindExtend.
func (r Record) Extend() (Extend, error) {
	f := &reader{left: r.Body}
	return done(f, r.Kind, Extend{uint32(f.uint(4)), uint32(f.uint(4)), f.digests()})
}

// Reset returns the PCR of a KindReset.
func (r Record) Reset() (int, error) {
	f := &reader{left: r.Body}
	pcr := f.uint(4)
	f.bad = f.bad || pcr >= PCRs
	return done(f, r.Kind, int(pcr))
}

// Startup returns the startup type of a KindStartup: 0 clear, 1 state.
func (r Record) Startup() (uint16, error) {
	f := &reader{left: r.Body}
	return done(f, r.Kind, uint16(f.uint(2)))
}

// Values returns the body of a KindValues.
func (r Record) Values() (reason uint8, banks []Bank, err error) {
	f := &reader{left: r.Body}
	reason = uint8(f.uint(1))
	banks, err = done(f, r.Kind, f.banks(true))
	return reason, banks, err
}

// Allocate returns the banks of a KindAllocate.
func (r Record) Allocate() ([]Bank, error) {
	f := &reader{left: r.Body}
	return done(f, r.Kind, f.banks(false))
}

// Policy returns the body of a KindPolicy.
func (r Record) Policy() (Policy, error) {
	f := &reader{left: r.Body}
	p := Policy{Result: uint32(f.uint(4)), Code: uint32(f.uint(4))}
	copy(p.Object[:], f.take(8))
	p.Flags = PolicyFlags(f.uint(2))
	p.Banks = f.banks(false)
	p.Digests = f.digests()
	return done(f, r.Kind, p)
}

// Overflow returns the body of a KindOverflow.
func (r Record) Overflow() (Overflow, error) {
	f := &reader{left: r.Body}
	return done(f, r.Kind, Overflow{f.uint(8), f.uint(8)})
}

// Orderly reports whether a KindEnd follows an orderly shutdown.
func (r Record) Orderly() bool { return len(r.Body) == 1 && r.Body[0] == 1 }
