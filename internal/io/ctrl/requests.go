package ctrl

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// Requests is the control protocol, in the order of the codes. The server, the device and the
// client of both use its names, lengths and states.
var Requests = []*Request{
	row(GetCapability, "GET_CAPABILITY", always, atOnce, sameRead, returns(capabilities)),
	row(Init, "INIT", always, inEngine, exact, takes(initialize)),
	row(Shutdown, "SHUTDOWN", always, inEngine, exact, simple(TPM.Stop)),
	row(GetTPMEstablished, "GET_TPMESTABLISHED", whenOn, atOnce, exact, returns(established)).wholeOnError(),
	row(SetLocality, "SET_LOCALITY", always, atOnce, padded, takes(setLocality)),
	row(HashStart, "HASH_START", whenOn, inEngine, exact, simple(TPM.HashStart)),
	row(HashData, "HASH_DATA", whenOn, inEngine, blob, carried[HashReq, ResultRep]).pieces(MaxHash, 0),
	row(HashEnd, "HASH_END", whenOn, inEngine, exact, simple(TPM.HashEnd)),
	row(CancelTPMCmd, "CANCEL_TPM_CMD", whenOn, atOnce, exact, simple(TPM.Cancel)),
	row(StoreVolatile, "STORE_VOLATILE", whenOn, inEngine, exact, simple(TPM.StoreVolatile)),
	row(ResetTPMEstablished, "RESET_TPMESTABLISHED", whenOn, inEngine, padded, takes(resetEstablished)),
	row(GetStateBlob, "GET_STATEBLOB", whenOn, inEngine, padded, getState).pieces(0, MaxPiece).wholeOnError(),
	row(SetStateBlob, "SET_STATEBLOB", whenOff, inEngine, blob, carried[SetStateReq, ResultRep]).pieces(MaxPiece, 0),
	row(Stop, "STOP", always, inEngine, exact, simple(TPM.Stop)),
	row(GetConfig, "GET_CONFIG", always, atOnce, exact, returns(config)),
	row(SetDataFD, "SET_DATAFD", always, atOnce, sameRead, carried[none, ResultRep]),
	row(SetBufferSize, "SET_BUFFERSIZE", always, inEngineUnlessZero, sameRead, bufferSize),
	row(GetInfo, "GET_INFO", always, inEngine, sameRead, info).pieces(0, MaxInfo),
	row(LockStorage, "LOCK_STORAGE", always, inEngine, sameRead, takes(lockStorage)),
}

// Request is one row of the protocol.
type Request struct {
	Code Code
	Name string

	when   when
	engine engineUse
	body   bodyKind

	reqSize, repSize int // of the structs that the body and the reply start with, in bytes
	reqData, repData int // the largest size in bytes of the data that follows the structs in one ioctl
	align            int // of the structs, in bytes
	whole            bool

	do func(r *Request, t TPM, order binary.ByteOrder, body []byte) (reply []byte, err error)
}

// when is the set of states of the TPM in which a request is accepted.
type when uint8

const (
	always when = iota
	whenOn
	whenOff
)

// engineUse is whether a request may have to wait for the engine or the disk. Such a
// request runs on the thread of the engine; the others overtake it.
type engineUse uint8

const (
	atOnce engineUse = iota
	inEngine
	inEngineUnlessZero // a body of zeros is a query, which does not wait
)

// bodyKind is the way in which the body of a request arrives on a socket.
//
// Compat: C-250: swtpm waits for some bodies and not for others.
type bodyKind uint8

const (
	exact    bodyKind = iota // the struct and nothing else
	padded                   // the struct; surplus is ignored: QEMU pads a locality with three bytes
	sameRead                 // like padded, but in the same read as the code
	blob                     // the struct, then as many bytes as its last field says
)

// none is the struct of a request without a body.
type none struct{}

// handler executes a request. data follows rep in the reply; it is cleared afterwards.
// The result in rep is set from err.
type handler[Q, R any] func(t TPM, q Q) (rep R, data []byte, err error)

// row returns the row of a request whose body starts with a Q and whose reply starts with
// an R, wire structs of fixed size.
func row[Q, R any](code Code, name string, when when, engine engineUse, body bodyKind, f handler[Q, R]) *Request {
	var q Q
	var rep R
	return &Request{
		Code: code, Name: name, when: when, engine: engine, body: body,
		reqSize: binary.Size(q), repSize: binary.Size(rep), align: int(max(unsafe.Alignof(q), unsafe.Alignof(rep))),
		do: func(r *Request, t TPM, order binary.ByteOrder, body []byte) ([]byte, error) {
			var q Q
			if _, err := binary.Decode(body, order, &q); err != nil {
				return Result(order, tpm.BadParameter), tpm.BadParameter
			}
			rep, data, err := f(t, q)
			if err != nil && !r.whole {
				return Result(order, err), err
			}
			reply, _ := binary.Append(make([]byte, 0, r.repSize+len(data)), order, rep) // wire structs have fixed size
			order.PutUint32(reply, uint32(tpm.ResultOf(err)))
			reply = append(reply, data...)
			clear(data)
			return reply, err
		},
	}
}

// pieces sets how many bytes may follow the structs of an ioctl.
func (r *Request) pieces(req, rep int) *Request {
	r.reqData, r.repData = req, rep
	return r
}

// wholeOnError lets the reply have its whole length when the request fails.
func (r *Request) wholeOnError() *Request {
	r.whole = true
	return r
}

// simple handles a request without a body whose reply is the result.
func simple(f func(TPM) error) handler[none, ResultRep] {
	return func(t TPM, _ none) (rep ResultRep, _ []byte, err error) { return rep, nil, f(t) }
}

// takes handles a request whose reply is the result.
func takes[Q any](f func(TPM, Q) error) handler[Q, ResultRep] {
	return func(t TPM, q Q) (rep ResultRep, _ []byte, err error) { return rep, nil, f(t, q) }
}

// returns handles a request without a body.
func returns[R any](f func(TPM) (R, error)) handler[none, R] {
	return func(t TPM, _ none) (rep R, _ []byte, err error) {
		rep, err = f(t)
		return rep, nil, err
	}
}

// carried handles a request that each carrier has to handle by itself.
func carried[Q, R any](TPM, Q) (rep R, _ []byte, err error) { return rep, nil, tpm.Fail }

// Find returns the row of a request, nil if there is none.
func Find(code Code) *Request {
	for _, r := range Requests {
		if r.Code == code {
			return r
		}
	}
	return nil
}

// FindIoctl returns the row of the request that a device receives as the ioctl number, nil
// if there is none.
//
// Compat: C-251: a device has no SET_DATAFD.
func FindIoctl(number uint32) *Request {
	r := Find(Code(number&0xff) + 1)
	if r == nil || r.Code == SetDataFD || r.Ioctl() != number {
		return nil
	}
	return r
}

// Ioctl returns the number of the ioctl that is this request on a device: 2 bits
// direction, 14 bits size of the buffer, 8 bits type, 8 bits number. Requests with a body
// are written and read, others are read.
//
// Source: swtpm, include/swtpm/tpm_ioctl.h, PTM_*, on a machine whose ioctls have the form
// of asm-generic/ioctl.h.
func (r *Request) Ioctl() uint32 {
	const write, read = 1 << 30, 2 << 30
	direction := uint32(read)
	if r.reqSize > 0 {
		direction |= write
	}
	return direction | uint32(r.BufferSize())<<16 | 'P'<<8 | uint32(r.Code-1)
}

// BufferSize returns the size in bytes of the buffer of the ioctl, which is a C union of
// the request and the reply.
func (r *Request) BufferSize() int {
	n := max(r.reqSize+r.reqData, r.repSize+r.repData)
	return (n + r.align - 1) / r.align * r.align
}

// Accepted reports whether the request is accepted while the TPM is on, or off.
func (r *Request) Accepted(on bool) bool {
	return r.when == always || (r.when == whenOn) == on
}

// InEngine reports whether the request with this body may have to wait for the engine or
// the disk.
func (r *Request) InEngine(body []byte) bool {
	if r.engine != inEngineUnlessZero {
		return r.engine == inEngine
	}
	for _, b := range body[:min(len(body), r.reqSize)] {
		if b != 0 {
			return true
		}
	}
	return false
}

// PowersOff reports whether the request powers the TPM off. That ends the wait of a
// command for a full disk, which occupies the engine.
func (r *Request) PowersOff() bool { return r.Code == Init || r.Code == Shutdown || r.Code == Stop }

// Do executes the request and returns its reply, which starts with the result. An error
// is the reason for a result other than success.
func (r *Request) Do(t TPM, order binary.ByteOrder, body []byte) (reply []byte, err error) {
	return r.do(r, t, order, body)
}

// Result returns the reply that is the result of err and nothing else.
func Result(order binary.ByteOrder, err error) []byte {
	reply := make([]byte, resultSize)
	order.PutUint32(reply, uint32(tpm.ResultOf(err)))
	return reply
}

// String returns the name. The Request may be nil.
func (r *Request) String() string {
	if r == nil {
		return "unknown request"
	}
	return r.Name
}

// Report logs why a request failed. It logs nothing for a bare tpm.Result, for tpm.Retry and for
// INIT, which has logged its error with advice.
func (r *Request) Report(log conn.Logger, err error) {
	if _, bare := err.(tpm.Result); err == nil || bare || r.Code == Init || errors.Is(err, tpm.Retry) {
		return
	}
	log.Errorf("%s: %v", r.Name, err)
}

// resultSize is the size in bytes of the result that each reply starts with.
const resultSize = 4

// failure returns the reply of the result TPM_FAIL in the length of a reply of success: a
// client that reads that much whatever the result is, as QEMU before 9 does, must not
// wait forever. The Request may be nil, for a code that no row has.
func (r *Request) failure(order binary.ByteOrder) []byte {
	size := resultSize
	if r != nil {
		size = r.repSize
	}
	reply := make([]byte, size)
	order.PutUint32(reply, uint32(tpm.Fail))
	return reply
}

// codeOf returns the code that a request on a socket starts with.
func codeOf(msg []byte) Code { return Code(binary.BigEndian.Uint32(msg)) }

// need returns how many bytes a request on a socket needs before it can be handled, as far
// as its start shows. Surplus belongs to the request.
func need(b []byte) int {
	const codeSize = 4
	if len(b) < codeSize {
		return codeSize
	}
	r := Find(codeOf(b))
	if r == nil || r.body == sameRead {
		return codeSize
	}
	n := codeSize + r.reqSize
	if r.body == blob && len(b) >= n { // the last field is the length of what follows
		n += int(binary.BigEndian.Uint32(b[n-4:]))
	}
	return n
}
