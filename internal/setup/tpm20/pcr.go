package tpm20

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/cli"
)

// banks are the PCR banks by their names.
var banks = []struct {
	name string
	alg  tpm2.TPMAlgID
}{
	{"sha1", tpm2.TPMAlgSHA1},
	{"sha256", tpm2.TPMAlgSHA256},
	{"sha384", tpm2.TPMAlgSHA384},
	{"sha512", tpm2.TPMAlgSHA512},
	{"sm3-256", 0x0012},
	{"sha3-256", tpm2.TPMAlgSHA3256},
	{"sha3-384", tpm2.TPMAlgSHA3384},
	{"sha3-512", tpm2.TPMAlgSHA3512},
}

// bank is a PCR bank of a TPM and how many bytes its selection has.
type bank struct {
	alg  tpm2.TPMAlgID
	size uint8
}

func (b bank) name() string {
	for _, n := range banks {
		if n.alg == b.alg {
			return n.name
		}
	}
	return fmt.Sprintf("0x%04x", uint16(b.alg))
}

// allocatePCRs has the TPM use the named banks alone, from its next start on. It
// returns those that it has of them, in the order given, and all that it could
// have. Names that no TPM has are left out.
func (c commander) allocatePCRs(wanted []string) (active, all []string, err error) {
	there, err := c.pcrBanks()
	if err != nil {
		return nil, nil, err
	}
	var on []bank
	for _, name := range wanted {
		i := slices.IndexFunc(there, func(b bank) bool { return b.name() == name })
		if i >= 0 && !slices.Contains(on, there[i]) {
			on = append(on, there[i])
			active = append(active, name)
		}
	}
	var w writer
	w.u32(uint32(len(there)))
	for _, b := range on {
		w.u16(uint16(b.alg)).raw(append([]byte{b.size}, slices.Repeat([]byte{0xff}, int(b.size))...))
	}
	for _, b := range there {
		all = append(all, b.name())
		if !slices.Contains(on, b) {
			w.u16(uint16(b.alg)).raw(append([]byte{b.size}, make([]byte, b.size)...))
		}
	}
	if len(on) == 0 {
		return nil, all, errNoBank
	}
	r, err := c.send("TPM2_PCR_Allocate", tpm2.TPMCCPCRAllocate, true, []tpm2.TPMHandle{platform}, w.b)
	if err != nil {
		return nil, nil, err
	}
	r.u32()
	if ok := r.u8(); ok == 0 || r.bad {
		return nil, nil, fmt.Errorf("TPM2_PCR_Allocate: the TPM has no room for the banks %s", strings.Join(active, ","))
	}
	return active, all, nil
}

// errNoBank means that the TPM has none of the banks.
var errNoBank = cli.Complain("No PCR banks could be allocated. None of the selected algorithms are supported.")

// pcrBanks asks which banks the TPM has.
//
//	TPML_PCR_SELECTION: u32 count, then for each u16 hash, u8 size, size bytes
func (c commander) pcrBanks() ([]bank, error) {
	r, err := c.capability(uint32(tpm2.TPMCapPCRs), 0, 64)
	if err != nil {
		return nil, err
	}
	n := r.u32()
	var out []bank
	for range n {
		b := bank{alg: tpm2.TPMAlgID(r.u16()), size: r.u8()}
		r.take(int(b.size))
		if r.bad {
			return nil, fmt.Errorf("TPM2_GetCapability: %w", errShort)
		}
		out = append(out, b)
	}
	return out, nil
}
