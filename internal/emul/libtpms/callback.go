package libtpms

/*
#include "engine.h"
*/
import "C"

import (
	"errors"
	"io/fs"
	"unsafe"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The callbacks run on the thread that called libtpms, with the lock held. goSave and goRecover are
// not callbacks of libtpms: C calls goRecover after a command, and goSave after a command or while
// the host handles a callback. All of them use theEngine, because libtpms passes no pointer of the
// caller to its callbacks.

// goLoad passes a stored payload to libtpms, in memory that libtpms frees. It never succeeds
// without data, because a TPM 2.0 would then start from a file of libtpms's own.
//
//export goLoad
func goLoad(out **C.uchar, n *C.uint32_t, name *C.char) C.TPM_RESULT {
	*out, *n = nil, 0
	b, err := theEngine.host.LoadState(C.GoString(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return C.TPM_RETRY // a TPM that has never run
	case err != nil:
		return theEngine.fail(err)
	case len(b) == 0:
		return theEngine.fail(errors.New("the stored payload is empty"))
	}
	*out, *n = (*C.uchar)(C.CBytes(b)), C.uint32_t(len(b))
	return C.TPM_SUCCESS
}

// goStore passes a payload to the host. data is valid until it returns.
//
//export goStore
func goStore(data *C.uchar, n C.uint32_t, name *C.char) C.TPM_RESULT {
	b := unsafe.Slice((*byte)(unsafe.Pointer(data)), int(n))
	if err := theEngine.host.StoreState(C.GoString(name), b); err != nil {
		return theEngine.fail(err)
	}
	return C.TPM_SUCCESS
}

//export goDelete
func goDelete(name *C.char, mustExist C.TPM_BOOL) C.TPM_RESULT {
	err := theEngine.host.DeleteState(C.GoString(name))
	if errors.Is(err, fs.ErrNotExist) && mustExist == 0 {
		err = nil
	}
	if err != nil {
		return theEngine.fail(err)
	}
	return C.TPM_SUCCESS
}

// goSave passes the volatile state to the host, empty if the library has returned none. data is
// valid until it returns.
//
//export goSave
func goSave(data *C.uchar, n C.uint32_t) {
	if h, ok := theEngine.host.(emul.Recoverer); ok {
		h.SaveState(unsafe.Slice((*byte)(unsafe.Pointer(data)), int(n)))
	}
}

// goRecover lets the host undo a command for which a callback has failed. b is the volatile state
// from before the command. It returns the size of the response that it has written to rsp, which
// has space for an error; 0 if the library's response is correct.
//
//export goRecover
func goRecover(b *C.uchar, n C.uint32_t, last C.uint32_t, rsp *C.uchar) C.uint32_t {
	h, ok := theEngine.host.(emul.Recoverer)
	if !ok {
		return 0
	}
	r := h.Recover(unsafe.Slice((*byte)(unsafe.Pointer(b)), int(n)), tpm.Code(last))
	return C.uint32_t(copy(unsafe.Slice((*byte)(unsafe.Pointer(rsp)), C.ERROR_SIZE), r))
}

// fail stores the cause of a failed callback for check, and returns its result for libtpms.
func (e *engine) fail(err error) C.TPM_RESULT {
	e.cause = err
	return C.TPM_RESULT(tpm.ResultOf(err))
}
