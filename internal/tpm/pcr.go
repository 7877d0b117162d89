package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// PCRs summarizes the registers of a TPM, for a comparison with the same TPM at another
// time.
type PCRs struct {
	Result  Result `json:"result"`  // of the commands; the other fields need Success
	Digest  string `json:"digest"`  // of all values
	Counter uint32 `json:"counter"` // TPM 2.0: number of changes
	Initial int    `json:"initial"` // TPM 1.2: number of registers with the value of a reset
}

// ReadPCRs reads all PCRs with commands that change nothing; run runs a command. Its error is
// one of run, or a response that is too short.
func ReadPCRs(v Version, run func(cmd []byte) ([]byte, error)) (p PCRs, err error) {
	sum := sha256.New()
	for _, cmd := range pcrCommands(v) {
		rsp, err := run(cmd)
		if err != nil {
			return PCRs{}, err
		}
		const header, counter, value12 = 10, 4, 20
		if len(rsp) < header {
			return PCRs{}, fmt.Errorf("response of %d bytes", len(rsp))
		}
		if r := Result(binary.BigEndian.Uint32(rsp[6:])); r != Success {
			return PCRs{Result: r}, nil
		}
		value := rsp[header:]
		switch {
		case v == V12 && len(value) != value12, len(value) < counter:
			return PCRs{}, fmt.Errorf("response of %d bytes", len(rsp))
		case v == V20:
			p.Counter = binary.BigEndian.Uint32(value)
			value = value[counter:]
		case bytes.Equal(value, make([]byte, value12)), bytes.Equal(value, bytes.Repeat([]byte{0xff}, value12)):
			p.Initial++
		}
		_, _ = sum.Write(value) // a hash returns no error
	}
	p.Digest = hex.EncodeToString(sum.Sum(nil))
	return p, nil
}

// pcrCommands returns the commands that read all PCRs: TPM2_PCR_Read returns eight of one
// bank at a time, TPM_PCRRead one.
func pcrCommands(v Version) (cmds [][]byte) {
	const registers = 24
	be := binary.BigEndian
	if v == V12 {
		for i := range uint32(registers) {
			cmds = append(cmds, be.AppendUint32([]byte{0, 0xc1, 0, 0, 0, 14, 0, 0, 0, 0x15}, i))
		}
		return cmds
	}
	const sha1, sha256, sha384, sha512 = 0x4, 0xb, 0xc, 0xd
	for _, bank := range []uint16{sha1, sha256, sha384, sha512} {
		for part := range registers / 8 {
			cmd := be.AppendUint16([]byte{0x80, 1, 0, 0, 0, 20, 0, 0, 1, 0x7e, 0, 0, 0, 1}, bank)
			selection := [3]byte{}
			selection[part] = 0xff
			cmds = append(cmds, append(append(cmd, 3), selection[:]...))
		}
	}
	return cmds
}

// Lost returns what is wrong with the registers of a TPM that were p before, "" for nothing.
// Other values alone are not wrong, because the guest may extend registers at any time.
func (p PCRs) Lost(now PCRs) string {
	switch {
	case p.Result != now.Result:
		return fmt.Sprintf("reading the PCRs returned %v and now returns %v", p.Result, now.Result)
	case p.Digest == now.Digest:
		return ""
	case now.Counter < p.Counter || now.Initial > p.Initial:
		return "the PCRs were reset"
	case now.Counter == p.Counter && p.Counter != 0:
		return "the PCRs have other values"
	}
	return ""
}
