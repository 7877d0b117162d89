package recorder

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The codes of the commands that measure.
const (
	pcrAllocate           = 0x12b
	nvExtend              = 0x136
	pcrEvent              = 0x13c
	pcrReset              = 0x13d
	pcrExtend             = 0x182
	eventSequenceComplete = 0x185
)

// takeMeasurement records a measurement. It returns false for other commands.
func (r *Recorder) takeMeasurement(e *entry) bool {
	switch e.code {
	case pcrExtend, pcrEvent, eventSequenceComplete, nvExtend, pcrReset, pcrAllocate:
	default:
		return false
	}
	if e.result != 0 {
		r.takeUse(e)
		return true
	}
	pcr := e.handle(0)
	switch e.code {
	case pcrExtend:
		f, _ := e.parameters(1)
		digests := f.digests(r.digests[:0])
		r.extend(e, pcr, digests, f.bad)
	case pcrEvent, eventSequenceComplete:
		f := e.response()
		digests := f.digests(r.digests[:0])
		r.extend(e, pcr, digests, f.bad)
	case nvExtend:
		r.extendNV(e)
	case pcrReset:
		if pcr < ledger.PCRs {
			r.reset(e, pcr)
		}
	case pcrAllocate:
		r.allocate(e)
	}
	return true
}

// allocate records which banks the next boot has.
func (r *Recorder) allocate(e *entry) {
	f, _ := e.parameters(1)
	var banks session
	banks.choose(&f)
	if done := e.response(); !f.bad && done.uint(1) == 1 && !done.bad {
		r.measure(r.record(e, ledger.KindAllocate, ledger.AppendSelections(nil, banks.selection())))
	}
}

// extend records the extend of a PCR. If its digests could not be read, the values of the
// next check have it. TPM_RH_NULL is no PCR.
func (r *Recorder) extend(e *entry, pcr uint32, digests []ledger.Digest, bad bool) {
	switch {
	case pcr >= ledger.PCRs:
	case bad:
		r.dirty = true
	default:
		r.measureExtend(r.record(e, ledger.KindExtend, nil), ledger.Extend{Index: pcr, Code: e.code, Digests: digests})
	}
}

// reset records that a PCR was reset.
func (r *Recorder) reset(e *entry, pcr uint32) {
	r.catchUp()
	r.state.Reset(int(pcr), int(pcr))
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], pcr)
	r.measure(r.record(e, ledger.KindReset, b[:]))
}

// extendNV records the extend of an NV index, with the digest of its data: the data may be
// anything.
func (r *Recorder) extendNV(e *entry) {
	f, encrypted := e.parameters(2)
	x := ledger.Extend{Index: e.handle(1), Code: e.code}
	if data := f.sized(2); !f.bad && !encrypted {
		r.sum = sha256.Sum256(data)
		x.Digests = append(r.digests[:0], ledger.Digest{Alg: ledger.SHA256, Value: r.sum[:]})
	}
	if x.NV() {
		r.measureExtend(r.record(e, ledger.KindExtend, nil), x)
	}
}

// The ordinals of a TPM 1.2.
const (
	extend12             = 0x14
	unseal12             = 0x18
	sha1CompleteExtend12 = 0xa3
	pcrReset12           = 0xc8
	executeTransport12   = 0xe7
)

// wrongPCRValue is TPM_WRONGPCRVAL.
const wrongPCRValue = 24

func (r *Recorder) take12(e *entry) {
	if e.code == unseal12 {
		r.takeUnseal12(e)
		return
	}
	if e.result == wrongPCRValue { // a key or an NV area; the command does not name the PCRs
		r.policy(e, &session{}, [8]byte{}, true)
	}
	if e.result != 0 {
		return
	}
	f := field{b: e.cmd[tpm.HeaderSize:]}
	switch e.code {
	case extend12:
		pcr := f.uint(4)
		r.extend12(e, pcr, f.take(ledger.SHA1.Size()), f.bad)
	case sha1CompleteExtend12:
		pcr, rsp := f.uint(4), field{b: e.rsp[tpm.HeaderSize:]}
		digest := rsp.take(ledger.SHA1.Size())
		r.extend12(e, pcr, digest, f.bad || rsp.bad)
	case pcrReset12:
		for pcr, m := uint32(0), mask(f.sized(2)); m != 0; pcr, m = pcr+1, m>>1 {
			if m&1 != 0 {
				r.reset(e, pcr)
			}
		}
	case executeTransport12: // possibly an extend, which may be encrypted
		r.dirty, r.unsure = true, true
	}
}

func (r *Recorder) extend12(e *entry, pcr uint32, digest []byte, bad bool) {
	r.extend(e, pcr, append(r.digests[:0], ledger.Digest{Alg: ledger.SHA1, Value: digest}), bad)
}

// takeUnseal12 records the result for sealed data that asks for PCRs.
//
// Source: TPM 1.2 Part 2, TPM_STORED_DATA, TPM_STORED_DATA12, TPM_PCR_INFO, TPM_PCR_INFO_LONG.
func (r *Recorder) takeUnseal12(e *entry) {
	const tagStored12 = 0x0016
	f := field{b: e.cmd[tpm.HeaderSize:]}
	f.uint(4) // the key
	tag := f.uint(2)
	f.uint(2)
	if f.uint(4) == 0 || f.bad {
		return
	}
	if tag == tagStored12 {
		f.take(2 + 1 + 1)
		f.sized(2) // PCRs at creation
	}
	pcrs := mask(f.sized(2))
	if tag == tagStored12 {
		f.take(ledger.SHA1.Size())
	}
	digest := f.take(ledger.SHA1.Size())
	if f.bad || pcrs == 0 || e.result != 0 && e.result != wrongPCRValue {
		return
	}
	asked := session{alg: ledger.SHA1, banks: 1, algs: [maxBanks]ledger.Alg{ledger.SHA1}, masks: [maxBanks]uint32{pcrs}}
	asked.digestSize = copy(asked.digest[:], digest)
	r.policy(e, &asked, [8]byte{}, e.result != 0)
}
