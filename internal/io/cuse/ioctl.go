package cuse

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// capabilities are those of a CUSE device, of either version.
//
// Source: swtpm, cuse_tpm.c, PTM_GET_CAPABILITY.
const capabilities = 0x16FFF

// maxHash is the most that one PTM_HASH_DATA carries, in bytes.
const maxHash = 4096

// request is one ioctl. arg is the caller's struct as it came; the reply goes into
// the same place. A reply that is nil is the result alone. after is done once the
// reply is out.
type request struct {
	name   string
	number uint32
	when   when
	do     func(d *Device, arg []byte) (rep []byte, after func(), err error)
}

// when says in which state of the TPM a request is taken.
type when uint8

const (
	always when = iota
	whenOn
	whenOff
)

// requests are the control channel of the device. The numbers have the size of the
// struct in them; its requests and replies are those of package ctrl, in the byte
// order of the machine.
//
// Source: swtpm, include/swtpm/tpm_ioctl.h, PTM_*, on a machine whose ioctls are those
// of asm-generic/ioctl.h. PTM_SET_DATAFD is not among them, as in swtpm.
var requests = []request{
	{"GET_CAPABILITY", 0x80085000, always, plain(func(*Device, []byte) ([]byte, error) { return encode(uint64(capabilities), nil), nil })},
	{"INIT", 0xC0045001, always, plain((*Device).init)},
	{"SHUTDOWN", 0x80045002, always, (*Device).shutdown},
	{"GET_TPMESTABLISHED", 0x80085003, whenOn, plain((*Device).getEstablished)},
	{"SET_LOCALITY", 0xC0045004, always, locality(TPM.SetLocality)},
	{"HASH_START", 0x80045005, whenOn, simple(TPM.HashStart)},
	{"HASH_DATA", 0xD0045006, whenOn, plain((*Device).hashData)},
	{"HASH_END", 0x80045007, whenOn, simple(TPM.HashEnd)},
	{"CANCEL_TPM_CMD", 0x80045008, whenOn, simple(TPM.Cancel)},
	{"STORE_VOLATILE", 0x80045009, whenOn, simple(TPM.StoreVolatile)},
	{"RESET_TPMESTABLISHED", 0xC004500A, whenOn, locality(TPM.ResetEstablished)},
	{"GET_STATEBLOB", 0xCC10500B, whenOn, plain((*Device).getState)},
	{"SET_STATEBLOB", 0xCC0C500C, whenOff, (*Device).setState},
	{"STOP", 0x8004500D, always, simple(TPM.Stop)},
	{"GET_CONFIG", 0x8008500E, always, plain((*Device).getConfig)},
	{"SET_BUFFERSIZE", 0xC0105010, always, plain((*Device).setBufferSize)},
	{"GET_INFO", 0xCC105011, always, plain((*Device).getInfo)},
	{"LOCK_STORAGE", 0xC0045012, always, plain((*Device).lockStorage)},
}

// plain is a request without anything to do after its reply.
func plain(do func(d *Device, arg []byte) ([]byte, error)) func(*Device, []byte) ([]byte, func(), error) {
	return func(d *Device, arg []byte) ([]byte, func(), error) {
		rep, err := do(d, arg)
		return rep, nil, err
	}
}

// simple is a request without a parameter whose reply is the result.
func simple(f func(TPM) error) func(*Device, []byte) ([]byte, func(), error) {
	return func(d *Device, _ []byte) ([]byte, func(), error) { return nil, nil, f(d.tpm) }
}

// locality is a request whose parameter is a locality.
func locality(f func(TPM, tpm.Locality) error) func(*Device, []byte) ([]byte, func(), error) {
	return func(d *Device, arg []byte) ([]byte, func(), error) {
		var q ctrl.LocalityReq
		if _, err := decode(arg, &q); err != nil {
			return nil, nil, err
		}
		return nil, nil, f(d.tpm, q.Locality)
	}
}

// ioctl answers one ioctl: the call succeeds if there is such a request, and what
// came of it is the result at the start of the struct.
func (d *Device) ioctl(body []byte) ([]byte, func(), error) {
	var in ioctlIn
	arg, err := decode(body, &in)
	if err != nil || int(in.InSize) != len(arg) {
		return nil, nil, unix.EINVAL
	}
	r := find(in.Number)
	if r == nil {
		d.opt.Note("unknown ioctl 0x%x", in.Number)
		return nil, nil, unix.EINVAL
	}
	d.trace(" Ctrl Cmd: "+r.name, arg)
	rep, after, err := d.dispatch(r, arg)
	if errno, ok := errors.AsType[unix.Errno](err); ok && errno == unix.EIO && after != nil {
		return nil, after, errno
	}
	if rep == nil {
		rep = encode(tpm.ResultOf(err), nil)
	}
	whole := make([]byte, size(in.Number))
	copy(whole, rep)
	clear(rep)
	d.trace(" Ctrl Rsp: "+r.name, whole)
	out := encode(ioctlOut{}, whole)
	clear(whole)
	return out, after, nil
}

// here are the requests that are answered at once, whatever the engine does.
var here = map[string]bool{
	"GET_CAPABILITY": true, "GET_TPMESTABLISHED": true, "SET_LOCALITY": true, "CANCEL_TPM_CMD": true, "GET_CONFIG": true,
}

// nameOf returns the name of the request in body, "" if there is no such request.
func nameOf(body []byte) string {
	var in ioctlIn
	if _, err := decode(body, &in); err != nil {
		return ""
	}
	r := find(in.Number)
	if r == nil {
		return ""
	}
	return r.name
}

// inEngine reports whether the ioctl in body may have to wait for the engine or the disk.
func inEngine(body []byte) bool {
	name := nameOf(body)
	return name != "" && !here[name]
}

// powersOff reports whether the ioctl in body powers the TPM off.
func powersOff(body []byte) bool {
	name := nameOf(body)
	return name == "INIT" || name == "STOP" || name == "SHUTDOWN"
}

func find(number uint32) *request {
	for i := range requests {
		if requests[i].number == number {
			return &requests[i]
		}
	}
	return nil
}

// size is the size of the struct that an ioctl's number tells, in bytes.
func size(number uint32) int { return int(number >> 16 & 0x3fff) }

func (d *Device) dispatch(r *request, arg []byte) ([]byte, func(), error) {
	on := d.tpm.On()
	if r.when == whenOn && !on || r.when == whenOff && on {
		return nil, nil, tpm.BadOrdinal
	}
	rep, after, err := r.do(d, arg)
	if _, bare := err.(tpm.Result); err != nil && !bare && r.name != "INIT" && !errors.Is(err, tpm.Retry) {
		d.opt.Error("%s: %v", r.name, err) // INIT has told already, with advice
	}
	return rep, after, err
}

// init powers the TPM on. What was left of state blobs goes.
func (d *Device) init(arg []byte) ([]byte, error) {
	var q ctrl.InitReq
	if _, err := decode(arg, &q); err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.file.out.end()
	d.file.in.end()
	d.mu.Unlock()
	return nil, d.tpm.Init(q.Flags&ctrl.InitDeleteVolatile != 0)
}

func (d *Device) shutdown([]byte) ([]byte, func(), error) {
	return nil, d.opt.Shutdown, d.tpm.Stop()
}

func (d *Device) getEstablished([]byte) ([]byte, error) {
	bit, err := d.tpm.Established()
	rep := ctrl.EstablishedRep{Result: tpm.ResultOf(err)}
	if bit {
		rep.Bit = 1
	}
	return encode(rep, nil), err
}

func (d *Device) hashData(arg []byte) ([]byte, error) {
	if len(arg) < 4 {
		return nil, tpm.BadParameter
	}
	n, b := binary.NativeEndian.Uint32(arg), arg[4:]
	if n > maxHash || int(n) > len(b) {
		return nil, tpm.Fail
	}
	return nil, d.tpm.HashData(b[:n])
}

func (d *Device) getConfig([]byte) ([]byte, error) {
	var rep ctrl.ConfigRep
	file, migration := d.tpm.Keys()
	if file {
		rep.Flags |= ctrl.HasFileKey
	}
	if migration {
		rep.Flags |= ctrl.HasMigrationKey
	}
	return encode(rep, nil), nil
}

func (d *Device) setBufferSize(arg []byte) ([]byte, error) {
	var q ctrl.BufferSizeReq
	if _, err := decode(arg, &q); err != nil {
		return nil, err
	}
	got, low, high, err := d.tpm.BufferSize(q.Size)
	if err != nil {
		return nil, err
	}
	return encode(ctrl.BufferSizeRep{Size: got, Min: low, Max: high}, nil), nil
}

// getInfo gives a part of the text; the last part ends in a NUL.
func (d *Device) getInfo(arg []byte) ([]byte, error) {
	var q ctrl.InfoReq
	if _, err := decode(arg, &q); err != nil {
		return nil, err
	}
	text, err := d.tpm.Info(q.Flags)
	if err != nil {
		return nil, err
	}
	if uint64(q.Offset) >= uint64(len(text)) {
		return nil, tpm.BadParameter
	}
	b := append([]byte(text), 0)
	part := b[q.Offset:min(len(b), int(q.Offset)+ctrl.MaxInfo)]
	return encode(ctrl.InfoRep{Total: uint32(len(b)), Length: uint32(len(part))}, part), nil
}

func (d *Device) lockStorage(arg []byte) ([]byte, error) {
	var q ctrl.LockStorageReq
	if _, err := decode(arg, &q); err != nil {
		return nil, err
	}
	return nil, d.tpm.LockStorage(q.Retries)
}
