package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"github.com/swtpm-go/swtpm/internal/cli"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"golang.org/x/sys/unix"
)

// Sizes in bytes of the data in the structs of the ioctls.
const (
	deviceHashData  = 4096 // of PTM_HASH_DATA
	deviceStateData = 3072 // of PTM_GET_STATEBLOB and PTM_SET_STATEBLOB
)

// Directions of an ioctl as the kernel encodes them; request structs are
// written, reply structs read.
const (
	ioRead  = 2
	ioWrite = 1
)

// maxDeviceState is how much state a device is believed to have, in bytes.
const maxDeviceState = 64 << 20

// bufferSizeVar is the environment variable that moves state blobs by read and
// write, in pieces of so many bytes, instead of by ioctl.
//
// Compat: swtpm_ioctl has it for its tests.
const bufferSizeVar = "SWTPM_IOCTL_BUFFERSIZE"

// device is a TPM behind the character device of a CUSE emulator. A request and
// its reply share one buffer of fixed size, in the byte order of the machine.
type device struct {
	io.ReadWriteCloser
	ioctl func(number uint32, buf []byte) error
	piece int // bytes per read or write of a state blob; 0: use ioctls
}

// openDevice opens the character device at path.
func openDevice(path string) (target, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, cli.Complain("Unable to open device '%s'.", path)
	}
	piece, err := strconv.Atoi(os.Getenv(bufferSizeVar))
	if err != nil || piece < 1 {
		piece = 0
	}
	fd := f.Fd()
	return &device{ReadWriteCloser: f, piece: piece, ioctl: func(number uint32, buf []byte) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(number), uintptr(unsafe.Pointer(&buf[0])))
		runtime.KeepAlive(f)
		if errno != 0 {
			return errno
		}
		return nil
	}}, nil
}

// ioctlNumber returns the number of the ioctl that stands for code. On the
// machines that swtpm runs on the parts are: 2 bits direction, 14 bits size of
// the struct, 8 bits type 'P', 8 bits number.
//
// Source: swtpm, include/swtpm/tpm_ioctl.h, PTM_*; asm-generic/ioctl.h.
func ioctlNumber(code ctrl.Code, direction uint32, size int) uint32 {
	return direction<<30 | uint32(size)<<16 | 'P'<<8 | uint32(code-1)
}

// call sends req, nil for none, in a buffer of size bytes and decodes the reply
// into rep, whose first field is the result. It returns what the reply has
// behind rep.
func (d *device) call(code ctrl.Code, size int, req, rep any) (rest []byte, err error) {
	return d.callWith(code, size, req, nil, rep)
}

// callWith is call for a request with data behind req.
func (d *device) callWith(code ctrl.Code, size int, req any, data []byte, rep any) (rest []byte, err error) {
	buf := make([]byte, size)
	direction := uint32(ioRead)
	if req != nil {
		direction |= ioWrite
		n, err := binary.Encode(buf, binary.NativeEndian, req)
		if err != nil {
			return nil, err
		}
		copy(buf[n:], data)
	}
	if err := d.ioctl(ioctlNumber(code, direction, size), buf); err != nil {
		return nil, err
	}
	if r := tpm.Result(binary.NativeEndian.Uint32(buf)); r != tpm.Success {
		return nil, r
	}
	n, err := binary.Decode(buf, binary.NativeEndian, rep)
	return buf[n:], err
}

// simple sends a request whose reply is a result and nothing else.
func (d *device) simple(code ctrl.Code, size int, req any) error {
	var r tpm.Result
	_, err := d.call(code, size, req, &r)
	return err
}

// Capability has a reply of its own: a u64 and no result.
func (d *device) Capability() (ctrl.Capability, error) {
	buf := make([]byte, 8)
	err := d.ioctl(ioctlNumber(ctrl.GetCapability, ioRead, len(buf)), buf)
	return ctrl.Capability(binary.NativeEndian.Uint64(buf)), err
}

func (d *device) Init(f ctrl.InitFlags) error {
	return d.simple(ctrl.Init, 4, ctrl.InitReq{Flags: f})
}
func (d *device) Shutdown() error      { return d.simple(ctrl.Shutdown, 4, nil) }
func (d *device) Stop() error          { return d.simple(ctrl.Stop, 4, nil) }
func (d *device) Cancel() error        { return d.simple(ctrl.CancelTPMCmd, 4, nil) }
func (d *device) StoreVolatile() error { return d.simple(ctrl.StoreVolatile, 4, nil) }
func (d *device) HashStart() error     { return d.simple(ctrl.HashStart, 4, nil) }
func (d *device) HashEnd() error       { return d.simple(ctrl.HashEnd, 4, nil) }

func (d *device) Established() (bool, error) {
	var rep ctrl.EstablishedRep
	_, err := d.call(ctrl.GetTPMEstablished, 8, nil, &rep)
	return rep.Bit != 0, err
}

func (d *device) ResetEstablished(l tpm.Locality) error {
	return d.simple(ctrl.ResetTPMEstablished, 4, ctrl.LocalityReq{Locality: l})
}

func (d *device) SetLocality(l tpm.Locality) error {
	return d.simple(ctrl.SetLocality, 4, ctrl.LocalityReq{Locality: l})
}

func (d *device) HashData(b []byte) error {
	if len(b) > deviceHashData {
		return fmt.Errorf("%d bytes to hash, want at most %d", len(b), deviceHashData)
	}
	var r tpm.Result
	_, err := d.callWith(ctrl.HashData, 4+deviceHashData, uint32(len(b)), b, &r)
	return err
}

func (d *device) Config() (ctrl.ConfigFlags, error) {
	var rep ctrl.ConfigRep
	_, err := d.call(ctrl.GetConfig, 8, nil, &rep)
	return rep.Flags, err
}

func (d *device) BufferSize(n uint32) (rep ctrl.BufferSizeRep, err error) {
	_, err = d.call(ctrl.SetBufferSize, 16, ctrl.BufferSizeReq{Size: n}, &rep)
	return rep, err
}

func (d *device) LockStorage(n uint32) error {
	return d.simple(ctrl.LockStorage, 4, ctrl.LockStorageReq{Retries: n})
}

func (d *device) Info(flags uint64) (string, error) {
	var text []byte
	for {
		var rep ctrl.InfoRep
		piece, err := d.call(ctrl.GetInfo, 16+ctrl.MaxInfo, ctrl.InfoReq{Flags: flags, Offset: uint32(len(text))}, &rep)
		if err != nil {
			return "", err
		}
		if rep.Length == 0 || int(rep.Length) > len(piece) {
			return "", fmt.Errorf("unexpected reply: a piece of %d bytes", rep.Length)
		}
		text = append(text, piece[:rep.Length]...)
		if uint32(len(text)) >= rep.Total {
			return string(bytes.TrimSuffix(text, []byte{0})), nil
		}
	}
}

// State fetches a blob: the first piece by ioctl, the rest by more of them or
// by read.
func (d *device) State(b tpm.Blob, decrypted bool) (blob []byte, flags ctrl.StateFlags, err error) {
	req := ctrl.GetStateReq{Type: b}
	if decrypted {
		req.Flags = ctrl.Decrypted
	}
	for {
		req.Offset = uint32(len(blob))
		var rep ctrl.GetStateRep
		piece, err := d.call(ctrl.GetStateBlob, 16+deviceStateData, req, &rep)
		if err != nil {
			return nil, 0, err
		}
		if int(rep.Length) > len(piece) || rep.Total > maxDeviceState {
			return nil, 0, fmt.Errorf("unexpected reply: a piece of %d bytes out of %d", rep.Length, rep.Total)
		}
		blob = append(blob, piece[:rep.Length]...)
		switch {
		case uint32(len(blob)) >= rep.Total:
			return blob, rep.Flags, nil
		case d.piece > 0:
			blob, err = d.readState(blob, int(rep.Total))
			return blob, rep.Flags, err
		case rep.Length == 0:
			return nil, 0, fmt.Errorf("unexpected reply: the blob ends after %d of %d bytes", len(blob), rep.Total)
		}
	}
}

// readState reads behind blob until it has total bytes.
func (d *device) readState(blob []byte, total int) ([]byte, error) {
	buf := make([]byte, d.piece)
	for len(blob) < total {
		n, err := d.Read(buf)
		blob = append(blob, buf[:n]...)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("the blob ends after %d of %d bytes: %w", len(blob), total, errors.Join(err, io.ErrUnexpectedEOF))
		}
	}
	return blob, nil
}

// SetState sends a blob: by ioctls, of which the last is not full, or by write
// between two empty ones.
func (d *device) SetState(b tpm.Blob, flags ctrl.StateFlags, blob []byte) error {
	if d.piece > 0 {
		return d.writeState(b, flags, blob)
	}
	for {
		n := min(len(blob), deviceStateData)
		if err := d.setPiece(b, flags, blob[:n]); err != nil {
			return err
		}
		if n < deviceStateData {
			return nil
		}
		blob = blob[n:]
	}
}

// setPiece is one PTM_SET_STATEBLOB.
func (d *device) setPiece(b tpm.Blob, flags ctrl.StateFlags, piece []byte) error {
	req := ctrl.SetStateReq{Flags: flags, Type: b, Length: uint32(len(piece))}
	var r tpm.Result
	_, err := d.callWith(ctrl.SetStateBlob, 12+deviceStateData, req, piece, &r)
	return err
}

func (d *device) writeState(b tpm.Blob, flags ctrl.StateFlags, blob []byte) error {
	if err := d.setPiece(b, flags, nil); err != nil {
		return err
	}
	for len(blob) > 0 {
		n, err := d.Write(blob[:min(len(blob), d.piece)])
		if err != nil {
			return err
		}
		blob = blob[n:]
	}
	return d.setPiece(b, flags, nil)
}
