package emul

import (
	"encoding/binary"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// ledgerBanks has the algorithms of banks.
var ledgerBanks = []ledger.Alg{ledger.SHA1, ledger.SHA256, ledger.SHA384, ledger.SHA512}

// readPCRs gives the values of all PCRs to the recorder. It returns false if the TPM does not
// report them.
func (t *TPM) readPCRs() bool {
	defer t.internal()()
	if t.opt.Version == tpm.V12 {
		return t.readPCRs12()
	}
	for _, alg := range ledgerBanks {
		if !t.readBank(alg) {
			return false
		}
	}
	return true
}

const (
	allPCRs      = 1<<ledger.PCRs - 1
	pcrRead20    = 0x17e
	noSessions20 = 0x8001
)

// peek is the memory for a TPM2_PCR_Read and its response, which has at most eight values.
type peek struct {
	cmd [20]byte
	rsp [tpm.HeaderSize + 4 + 4 + 6 + 4 + 8*(2+64)]byte
}

// readBank reads the values of one bank, if the TPM has it. The TPM returns at most eight values
// at a time.
func (t *TPM) readBank(alg ledger.Alg) bool {
	l := &t.ledger
	for left := uint32(allPCRs); left != 0; {
		cmd := binary.BigEndian.AppendUint16(l.peek.cmd[:0], noSessions20)
		cmd = binary.BigEndian.AppendUint32(cmd, uint32(len(l.peek.cmd)))
		cmd = binary.BigEndian.AppendUint32(cmd, pcrRead20)
		cmd = binary.BigEndian.AppendUint32(cmd, 1)
		cmd = binary.BigEndian.AppendUint16(cmd, uint16(alg))
		cmd = append(cmd, 3, byte(left), byte(left>>8), byte(left>>16))
		n, err := l.tap.Peek(cmd, l.peek.rsp[:])
		rsp := l.peek.rsp[:n]
		h, ok := tpm.ParseHeader(rsp)
		const selection = tpm.HeaderSize + 4 + 4
		if err != nil || !ok || h.Code != 0 || len(rsp) < selection+6+4 {
			return false
		}
		p := rsp[selection:]
		got := uint32(p[3]) | uint32(p[4])<<8 | uint32(p[5])<<16
		if got &= left; got == 0 {
			return true
		}
		p = p[6+4:]
		for pcr := range ledger.PCRs {
			if got>>pcr&1 == 0 {
				continue
			}
			if len(p) < 2+alg.Size() || int(binary.BigEndian.Uint16(p)) != alg.Size() {
				return false
			}
			l.Put(alg, pcr, p[2:2+alg.Size()])
			p = p[2+alg.Size():]
		}
		left &^= got
	}
	return true
}

// readPCRs12 reads the values from the volatile state: any command would end the guest's SHA-1
// thread and an exclusive transport session, and would invalidate what TPM_SaveState has saved.
//
// Source: TPM 1.2 Part 3, TPM_SHA1Start, TPM_SaveState, TPM_EstablishTransport.
func (t *TPM) readPCRs12() bool {
	volatile, err := t.engine.Volatile()
	if err != nil {
		return false
	}
	defer seal.Wipe(volatile)
	values, ok := payload.PCRs12(volatile)
	if !ok {
		return false
	}
	size := ledger.SHA1.Size()
	for pcr := range ledger.PCRs {
		t.ledger.Put(ledger.SHA1, pcr, values[pcr*size:(pcr+1)*size])
	}
	return true
}
