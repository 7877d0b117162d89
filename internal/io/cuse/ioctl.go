package cuse

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// order is the byte order of the ioctls.
var order = binary.NativeEndian

// parseIoctl splits the body of an ioctl. r is nil if no request has its number.
func parseIoctl(body []byte) (in ioctlIn, r *ctrl.Request, arg []byte, err error) {
	arg, err = decode(body, &in)
	if err != nil || int(in.InSize) != len(arg) {
		return in, nil, nil, unix.EINVAL
	}
	return in, ctrl.FindIoctl(in.Number), arg, nil
}

// ioctl answers one ioctl: the call succeeds if a request has its number, and the buffer
// that it returns starts with the result. after is called once the reply is sent.
func (d *Device) ioctl(body []byte) (rep []byte, after func(), err error) {
	in, r, arg, err := parseIoctl(body)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		d.opt.Log.Infof("unknown ioctl 0x%x", in.Number)
		return nil, nil, unix.EINVAL
	}
	d.opt.Log.Dump(" Ctrl Cmd: "+r.Name, arg)
	rep, after, err = d.request(r, arg)
	if err == errNoStorage {
		return nil, after, unix.EIO
	}
	if rep == nil {
		rep = ctrl.Result(order, err)
	}
	buffer := make([]byte, r.BufferSize())
	copy(buffer, rep)
	clear(rep)
	d.opt.Log.Dump(" Ctrl Rsp: "+r.Name, buffer)
	out := encode(ioctlOut{}, buffer)
	clear(buffer)
	return out, after, nil
}

// errNoStorage means that the storage of a state blob is not available.
var errNoStorage = errors.New("storage not available")

// request executes a request. A reply that is nil is the result of err.
func (d *Device) request(r *ctrl.Request, arg []byte) (rep []byte, after func(), err error) {
	if !r.Accepted(d.tpm.On()) {
		return nil, nil, tpm.BadOrdinal
	}
	switch r.Code {
	case ctrl.GetCapability: // a u64 without a result
		return encode(uint64(ctrl.CapabilitiesDevice), nil), nil, nil
	case ctrl.HashData:
		err = d.hashData(arg)
	case ctrl.GetStateBlob:
		rep, err = d.getState(arg)
	case ctrl.SetStateBlob:
		if err := d.tpm.PrepareSetState(); err != nil {
			d.opt.Log.Errorf("%s: %v", r, err)
			return nil, func() { d.opt.End(err) }, errNoStorage
		}
		err = d.setState(arg)
	case ctrl.Init:
		d.forgetBlobs()
		rep, err = r.Do(d.tpm, order, arg)
	case ctrl.Shutdown:
		after = func() { d.opt.End(ctrl.ErrShutdown) }
		rep, err = r.Do(d.tpm, order, arg)
	default:
		rep, err = r.Do(d.tpm, order, arg)
	}
	r.Report(d.opt.Log, err)
	return rep, after, err
}

// hashData handles PTM_HASH_DATA.
func (d *Device) hashData(arg []byte) error {
	var q ctrl.HashReq
	b, err := decode(arg, &q)
	switch {
	case err != nil:
		return tpm.BadParameter
	case q.Length > ctrl.MaxHash || int(q.Length) > len(b):
		return tpm.Fail
	}
	return d.tpm.HashData(b[:q.Length])
}

// forgetBlobs ends the transfer of state blobs.
func (d *Device) forgetBlobs() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.file.out.end()
	d.file.in.end()
}

// inEngine reports whether the ioctl in body may have to wait for the engine or the disk.
func inEngine(body []byte) bool {
	_, r, arg, err := parseIoctl(body)
	return err == nil && r != nil && r.InEngine(arg)
}

// powersOff reports whether the ioctl in body powers the TPM off.
func powersOff(body []byte) bool {
	_, r, _, err := parseIoctl(body)
	return err == nil && r != nil && r.PowersOff()
}

// asErrno returns the errno with which an operation fails because of err.
func asErrno(err error) unix.Errno {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return unix.EIO
}
