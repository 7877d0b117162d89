package libtpms

/*
#include "engine.h"
*/
import "C"

import (
	"errors"
	"io/fs"
	"unsafe"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The callbacks run on the thread that called into libtpms, with the lock held;
// goRecover alone is called between two calls of libtpms. libtpms carries no pointer for us, hence theEngine.

// goLoad gives libtpms a stored payload, in memory that libtpms frees. It never
// answers success without data: the TPM 2.0 engine would then start from a file
// of its own.
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

// goStore hands a payload to the host; data is libtpms's and not kept.
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

// goKeep hands the volatile state to the host, none if the library gave none; data
// is not kept.
//
//export goKeep
func goKeep(data *C.uchar, n C.uint32_t) {
	theEngine.host.Keep(unsafe.Slice((*byte)(unsafe.Pointer(data)), int(n)))
}

// goRecover lets the host undo a command for which a callback has failed. b is the
// volatile state from before it. It returns the size of the response that it has put
// into rsp, which has room for an error; 0 if the library's own one is right.
//
//export goRecover
func goRecover(b *C.uchar, n C.uint32_t, last C.uint32_t, rsp *C.uchar) C.uint32_t {
	r := theEngine.host.Recover(unsafe.Slice((*byte)(unsafe.Pointer(b)), int(n)), tpm.Code(last))
	return C.uint32_t(copy(unsafe.Slice((*byte)(unsafe.Pointer(rsp)), C.ERROR_SIZE), r))
}

// fail keeps the cause of a failed callback for check and tells libtpms the
// result in it.
func (e *engine) fail(err error) C.TPM_RESULT {
	e.cause = err
	return C.TPM_RESULT(tpm.ResultOf(err))
}
