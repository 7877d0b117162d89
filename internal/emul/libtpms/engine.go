// Package libtpms wraps the C library libtpms, which no other package calls. It exports no C type.
// Its errors contain the causes of failed callbacks, which the result codes of libtpms do not show.
package libtpms

/*
#cgo CFLAGS: -O2 -Wall
#cgo pkg-config: libtpms
#include "engine.h"
#include <stdlib.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

var (
	_ emul.Engine = theEngine
	_ emul.Saver  = theEngine
	_ emul.Loop   = theEngine
	_ emul.Tapper = theEngine
)

// engine is libtpms. Its state is in C globals, so theEngine is the only one.
type engine struct {
	host    emul.Host
	version tpm.Version
	cause   error // of the last failed callback, until check takes it
}

var theEngine = &engine{}

var prepare = sync.OnceFunc(func() { C.swtpm_prepare() })

// Engine returns the only engine of this process.
func Engine() emul.Engine {
	prepare()
	return theEngine
}

// Version returns the version of the loaded libtpms, such as "0.9.2".
func Version() string {
	v := uint32(C.TPMLIB_GetVersion())
	return fmt.Sprintf("%d.%d.%d", v>>16, v>>8&0xff, v&0xff)
}

// LibraryVersion implements emul.Library.
func (e *engine) LibraryVersion() string { return Version() }

// HasProfiles reports whether the loaded libtpms has algorithm profiles, which were added in version
// 0.10. The loaded libtpms may be newer than the one that this program was built with.
func HasProfiles() bool { return C.swtpm_has_profiles() != 0 }

// Debug sends libtpms's messages below level to the descriptor fd, each line with prefix. Errors
// are written at any level.
func Debug(fd int, level uint, prefix string) {
	p := C.CString(prefix)
	defer C.free(unsafe.Pointer(p))
	C.swtpm_log_to(C.int(fd))
	C.TPMLIB_SetDebugLevel(C.uint(level))
	C.TPMLIB_SetDebugPrefix(p) // fails only without memory; the messages then have no prefix
}

// check returns the error of a call, with its name and with the cause from a failed callback.
func (e *engine) check(call string, rc C.TPM_RESULT) error {
	err, cause := tpm.Result(rc).Err(), e.cause
	e.cause = nil
	switch {
	case err == nil:
		return nil
	case cause == nil:
		return fmt.Errorf("libtpms: %s: %w", call, err)
	}
	return fmt.Errorf("libtpms: %s: %w: %w", call, err, cause)
}

func (e *engine) Lock() {
	C.swtpm_lock()
	e.cause = nil // of a command in swtpm_loop: its response is an error
}

func (e *engine) TryLock() bool {
	if C.swtpm_trylock() == 0 {
		return false
	}
	e.cause = nil
	return true
}

func (e *engine) Unlock() { C.swtpm_unlock() }

func (e *engine) Choose(v tpm.Version) error {
	c := C.TPMLIB_TPMVersion(C.TPMLIB_TPM_VERSION_2)
	if v == tpm.V12 {
		c = C.TPMLIB_TPM_VERSION_1_2
	}
	if err := e.check("TPMLIB_ChooseTPMVersion", C.TPMLIB_ChooseTPMVersion(c)); err != nil {
		return err
	}
	e.version = v
	return nil
}

func (e *engine) Register(h emul.Host) error {
	e.host = h
	return e.check("TPMLIB_RegisterCallbacks", C.swtpm_register())
}

func (e *engine) SetProfile(profile string) error {
	if !HasProfiles() {
		return fmt.Errorf("libtpms %s has no algorithm profiles: %w; 0.10 or newer is needed", Version(), errors.ErrUnsupported)
	}
	p := C.CString(profile)
	defer C.free(unsafe.Pointer(p))
	return e.check("TPMLIB_SetProfile", C.swtpm_set_profile(p))
}

func (e *engine) Manufactured() bool { return C.swtpm_was_manufactured() != 0 }

func (e *engine) Start() error {
	rc := C.TPMLIB_MainInit()
	if err := e.check("TPMLIB_MainInit", rc); err != nil {
		C.TPMLIB_Terminate() // otherwise the version could not be chosen again
		return err
	}
	if err := e.fitOpenSSL(); err != nil {
		C.TPMLIB_Terminate()
		return err
	}
	C.swtpm_power(1)
	return nil
}

func (e *engine) Terminate() {
	C.swtpm_admit(0, 0)
	C.swtpm_power(0)
	C.TPMLIB_Terminate()
}

func (e *engine) Process(cmd []byte) ([]byte, error) {
	if len(cmd) == 0 {
		return nil, errors.New("libtpms: TPMLIB_Process: empty command")
	}
	var rsp C.struct_response
	rc := C.swtpm_run(&rsp, (*C.uchar)(unsafe.SliceData(cmd)), C.uint32_t(len(cmd)))
	defer func() { C.free(unsafe.Pointer(rsp.b)) }()
	if err := e.check("TPMLIB_Process", rc); err != nil {
		return nil, err
	}
	return C.GoBytes(unsafe.Pointer(rsp.b), C.int(rsp.n)), nil
}

func (e *engine) Peek(cmd, rsp []byte) (int, error) {
	var r C.struct_response
	rc := C.swtpm_peek(&r, (*C.uchar)(unsafe.SliceData(cmd)), C.uint32_t(len(cmd)))
	defer func() { C.free(unsafe.Pointer(r.b)) }()
	if err := e.check("TPMLIB_Process", rc); err != nil {
		return 0, err
	}
	return copy(rsp, unsafe.Slice((*byte)(r.b), int(r.n))), nil
}

func (e *engine) Tap(b []byte) error {
	if b != nil && len(b) < C.TAP_SIZE {
		return fmt.Errorf("libtpms: boot ledger: %d bytes of memory, want %d: %w", len(b), C.TAP_SIZE, tpm.Size)
	}
	C.swtpm_tap_on(cbool(e.version == tpm.V20), (*C.uchar)(unsafe.SliceData(b)))
	return nil
}

func (e *engine) Tapped() int { return int(C.swtpm_tap_used()) }

func (e *engine) LastLocality() tpm.Locality { return tpm.Locality(C.swtpm_running_locality()) }

func (e *engine) TapDue() bool { return C.swtpm_tap_due() != 0 }

func (e *engine) TakeTapped() []byte {
	var b *C.uchar
	n := C.swtpm_tap_take(&b)
	return unsafe.Slice((*byte)(b), int(n))
}

func (e *engine) Commands() uint64 { return uint64(C.swtpm_commands()) }

func (e *engine) LastCode() tpm.Code         { return tpm.Code(C.swtpm_last()) }
func (e *engine) SetLastCode(c tpm.Code)     { C.swtpm_set_last(C.uint32_t(c)) }
func (e *engine) SetLocality(l tpm.Locality) { C.swtpm_set_locality(C.uint32_t(l)) }
func (e *engine) Locality() tpm.Locality     { return tpm.Locality(C.swtpm_locality()) }

func (e *engine) Volatile() ([]byte, error) {
	var b *C.uchar
	var n C.uint32_t
	rc := C.TPMLIB_VolatileAll_Store(&b, &n)
	defer C.free(unsafe.Pointer(b))
	defer func() { clear(unsafe.Slice((*byte)(b), int(n))) }() // the TPM's secrets
	if err := e.check("TPMLIB_VolatileAll_Store", rc); err != nil {
		return nil, err
	}
	return C.GoBytes(unsafe.Pointer(b), C.int(n)), nil
}

// stateTypes are the numbers of the blobs in libtpms, each of which is one bit.
var stateTypes = [...]uint32{
	tpm.Permanent: C.TPMLIB_STATE_PERMANENT,
	tpm.Volatile:  C.TPMLIB_STATE_VOLATILE,
	tpm.Savestate: C.TPMLIB_STATE_SAVE_STATE,
}

func (e *engine) SetState(b tpm.Blob, payload []byte) error {
	if b == 0 || int(b) >= len(stateTypes) {
		return fmt.Errorf("libtpms: SetState: unknown state %d: %w", b, tpm.BadParameter)
	}
	var p *C.uchar
	if len(payload) > 0 {
		p = (*C.uchar)(unsafe.SliceData(payload))
	}
	return e.check("TPMLIB_SetState", C.TPMLIB_SetState(stateTypes[b], p, C.uint32_t(len(payload))))
}

func (e *engine) HashStart() error {
	return e.check("TPM_IO_Hash_Start", C.swtpm_hash_start())
}

func (e *engine) HashData(b []byte) error {
	if len(b) == 0 {
		b = []byte{0}[:0:1]
	}
	return e.check("TPM_IO_Hash_Data", C.swtpm_hash_data((*C.uchar)(unsafe.SliceData(b)), C.uint32_t(len(b))))
}

func (e *engine) HashEnd() error {
	return e.check("TPM_IO_Hash_End", C.swtpm_hash_end())
}

func (e *engine) Established() (bool, error) {
	var bit C.TPM_BOOL
	var rc C.TPM_RESULT
	C.swtpm_established(&bit, &rc)
	if err := tpm.Result(rc).Err(); err != nil {
		return false, fmt.Errorf("libtpms: TPM_IO_TpmEstablished_Get: %w", err)
	}
	return bit != 0, nil
}

func (e *engine) ResetEstablished(l tpm.Locality) error {
	return e.check("TPM_IO_TpmEstablished_Reset", C.swtpm_reset_established(C.uint32_t(l)))
}

func (e *engine) Cancel() error {
	return tpm.Result(C.TPMLIB_CancelCommand()).Err()
}

func (e *engine) BufferSize(want uint32) (size, low, high uint32) {
	var mn, mx C.uint32_t
	size = uint32(C.TPMLIB_SetBufferSize(C.uint32_t(want), &mn, &mx))
	return size, uint32(mn), uint32(mx)
}

func (e *engine) Info(flags uint64) (string, error) {
	s := C.TPMLIB_GetInfo(uint32(flags))
	if s == nil {
		return "", fmt.Errorf("libtpms: TPMLIB_GetInfo: out of memory: %w", tpm.Size)
	}
	defer C.free(unsafe.Pointer(s))
	return C.GoString(s), nil
}

func (e *engine) UseHandover(h emul.Handover) {
	s := h.Slots()
	C.swtpm_use_handover((*C.struct_cells)(unsafe.Pointer(h.Cells())), (*C.uchar)(unsafe.SliceData(s[0])),
		(*C.uchar)(unsafe.SliceData(s[1])), C.uint64_t(len(s[0])))
}

func (e *engine) SetSlotHeader(header []byte) {
	C.swtpm_set_slot_header((*C.uchar)(unsafe.SliceData(header)), C.uint32_t(len(header)))
}

func (e *engine) SaveState() { C.swtpm_save_state(1) }

// Handles returns the number of handles of a command of a TPM 2.0.
func Handles(code uint32) int { return int(C.swtpm_handles(C.uint32_t(code))) }

// mayStore reports whether a command is likely to store something, so that the volatile
// state is serialized before it.
func mayStore(cmd []byte) bool {
	return C.swtpm_may_store((*C.uchar)(unsafe.SliceData(cmd)), C.uint32_t(len(cmd))) != 0
}

// serialized returns how often the volatile state was serialized because of commands.
func serialized() uint64 { return uint64(C.swtpm_serialized()) }

func cbool(b bool) C.int {
	if b {
		return 1
	}
	return 0
}
