package tpm20

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/setup/job"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The entities that authorize what we do; all of them have an empty password.
const (
	owner       = tpm2.TPMRHOwner
	endorsement = tpm2.TPMRHEndorsement
	platform    = tpm2.TPMRHPlatform
)

// emptyPassword is the authorization area of a command: its size in bytes as u32,
// then TPM_RS_PW, no nonce, no attributes, no password.
var emptyPassword = []byte{0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0}

// writer builds big-endian structures.
type writer struct{ b []byte }

func (w *writer) u16(n uint16) *writer { w.b = binary.BigEndian.AppendUint16(w.b, n); return w }
func (w *writer) u32(n uint32) *writer { w.b = binary.BigEndian.AppendUint32(w.b, n); return w }
func (w *writer) raw(b []byte) *writer { w.b = append(w.b, b...); return w }

// sized appends b behind its size, a TPM2B.
func (w *writer) sized(b []byte) *writer { return w.u16(uint16(len(b))).raw(b) }

// reader takes big-endian structures apart. Past the end it reads zeros, and bad
// is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad = true
		r.b = nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) sized() []byte { return r.take(int(r.u16())) }

// Error is a result that a TPM answered with.
type Error struct {
	Command string
	Code    uint32
}

func (e *Error) Error() string { return fmt.Sprintf("%s failed: 0x%x", e.Command, e.Code) }

// errShort means that a response ends too early.
var errShort = errors.New("the response is too short")

// commander sends commands to a TPM.
type commander struct {
	ctx context.Context
	t   job.TPM
}

// send sends a command with the handles and, if they need one, the empty password
// of the first, and returns what follows the header of its response.
func (c commander) send(name string, code tpm2.TPMCC, authorized bool, handles []tpm2.TPMHandle, params []byte) (*reader, error) {
	var w writer
	tag := tpm.TagNoSessions
	if authorized {
		tag = tpm.TagSessions
	}
	w.u16(uint16(tag)).u32(0).u32(uint32(code))
	for _, h := range handles {
		w.u32(uint32(h))
	}
	if authorized {
		w.raw(emptyPassword)
	}
	w.raw(params)
	binary.BigEndian.PutUint32(w.b[2:], uint32(len(w.b)))
	rsp, err := c.t.Execute(c.ctx, w.b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	h, ok := tpm.ParseHeader(rsp)
	if !ok || int64(h.Size) != int64(len(rsp)) {
		return nil, fmt.Errorf("%s: a response of %d bytes: %w", name, len(rsp), errShort)
	}
	if h.Code != 0 {
		return nil, &Error{name, uint32(h.Code)}
	}
	return &reader{b: rsp[tpm.HeaderSize:]}, nil
}

// createPrimary makes a primary key and returns its handle and its TPMT_PUBLIC.
//
//	TPM2B_SENSITIVE_CREATE with two empty TPM2B, TPM2B_PUBLIC, TPM2B outsideInfo,
//	TPML_PCR_SELECTION with none
//	response: handle, u32 parameter size, TPM2B_PUBLIC, …
func (c commander) createPrimary(kind string, hierarchy tpm2.TPMHandle, t template) (tpm2.TPMHandle, []byte, error) {
	name := fmt.Sprintf("TPM2_CreatePrimary(%s)", kind)
	var w writer
	w.u16(4).u16(0).u16(0).sized(t.bytes()).u16(0).u32(0)
	r, err := c.send(name, tpm2.TPMCCCreatePrimary, true, []tpm2.TPMHandle{hierarchy}, w.b)
	if err != nil {
		return 0, nil, err
	}
	h := tpm2.TPMHandle(r.u32())
	r.u32()
	public := r.sized()
	if r.bad {
		return 0, nil, fmt.Errorf("%s: %w", name, errShort)
	}
	return h, public, nil
}

// persist makes the transient key at persistent.
func (c commander) persist(transient, persistent tpm2.TPMHandle) error {
	var w writer
	w.u32(uint32(persistent))
	_, err := c.send("TPM2_EvictControl", tpm2.TPMCCEvictControl, true, []tpm2.TPMHandle{owner, transient}, w.b)
	return err
}

// flush drops a transient key. Its handle is a parameter.
func (c commander) flush(transient tpm2.TPMHandle) error {
	_, err := c.send("TPM2_FlushContext", tpm2.TPMCCFlushContext, false, []tpm2.TPMHandle{transient}, nil)
	return err
}

// nvAttributes are those of every index that we make, TPMA_NV: PPWRITE,
// WRITEDEFINE, PPREAD, OWNERREAD, AUTHREAD, NO_DA, PLATFORMCREATE.
const nvAttributes = 0x42072001

// nvChunk is how many bytes one TPM2_NV_Write takes: MAX_NV_BUFFER_SIZE.
const nvChunk = 1024

// nvDefine makes an index with room for size bytes.
//
//	TPM2B auth, empty; TPM2B_NV_PUBLIC: u32 index, u16 SHA256, u32 attributes,
//	TPM2B policy, empty, u16 size
func (c commander) nvDefine(index uint32, size int) error {
	var public, w writer
	public.u32(index).u16(uint16(tpm2.TPMAlgSHA256)).u32(nvAttributes).u16(0).u16(uint16(size))
	w.u16(0).sized(public.b)
	_, err := c.send("TPM2_NV_DefineSpace", tpm2.TPMCCNVDefineSpace, true, []tpm2.TPMHandle{platform}, w.b)
	return err
}

// nvWrite writes b into an index: TPM2B data, u16 offset.
func (c commander) nvWrite(index uint32, b []byte) error {
	for off := 0; off < len(b); off += nvChunk {
		var w writer
		w.sized(b[off:min(off+nvChunk, len(b))]).u16(uint16(off))
		if _, err := c.send("TPM2_NV_Write", tpm2.TPMCCNVWrite, true, []tpm2.TPMHandle{platform, tpm2.TPMHandle(index)}, w.b); err != nil {
			return err
		}
	}
	return nil
}

// nvLock has nobody write an index any more.
func (c commander) nvLock(index uint32) error {
	_, err := c.send("TPM2_NV_WriteLock", tpm2.TPMCCNVWriteLock, true, []tpm2.TPMHandle{platform, tpm2.TPMHandle(index)}, nil)
	return err
}

// capability asks for count values of a capability and returns what follows
// moreData and the capability.
func (c commander) capability(capability, property, count uint32) (*reader, error) {
	var w writer
	w.u32(capability).u32(property).u32(count)
	r, err := c.send("TPM2_GetCapability", tpm2.TPMCCGetCapability, false, nil, w.b)
	if err != nil {
		return nil, err
	}
	r.u8()
	r.u32()
	return r, nil
}

// manufacturer returns TPM_PT_MANUFACTURER as text: "IBM".
func (c commander) manufacturer() (string, error) {
	r, err := c.capability(uint32(tpm2.TPMCapTPMProperties), uint32(tpm2.TPMPTManufacturer), 1)
	if err != nil {
		return "", err
	}
	r.u32() // how many
	r.u32() // which
	b := r.take(4)
	if r.bad {
		return "", fmt.Errorf("TPM2_GetCapability: %w", errShort)
	}
	for i := range b {
		if b[i] == 0 {
			return string(b[:i]), nil
		}
	}
	return string(b), nil
}

// shutdown tells the TPM that its power goes.
func (c commander) shutdown() error {
	rsp, err := c.t.Execute(c.ctx, tpm.Shutdown(0))
	if err != nil {
		return fmt.Errorf("TPM2_Shutdown: %w", err)
	}
	h, ok := tpm.ParseHeader(rsp)
	switch {
	case !ok:
		return fmt.Errorf("TPM2_Shutdown: %w", errShort)
	case h.Code != 0:
		return &Error{"TPM2_Shutdown", uint32(h.Code)}
	}
	return nil
}
