package ctrl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// device carries requests to the character device of a CUSE emulator. A request and its
// reply share one buffer of fixed size, in the byte order of the machine.
type device struct {
	io.ReadWriteCloser
	ioctl func(number uint32, buf []byte) error
	piece int // bytes per read or write of a state blob; 0: use ioctls
}

// OpenDevice returns a Client for the character device at path. It moves state blobs by
// read and write, piece bytes at a time, or if piece is 0 by ioctl.
func OpenDevice(path string, piece int) (*Client, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	fd := f.Fd()
	return &Client{carrier: &device{ReadWriteCloser: f, piece: piece, ioctl: func(number uint32, buf []byte) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(number), uintptr(unsafe.Pointer(&buf[0])))
		runtime.KeepAlive(f)
		if errno != 0 {
			return errno
		}
		return nil
	}}}, nil
}

func (d *device) do(x *call) (data []byte, err error) {
	if len(x.data) > x.reqData {
		return nil, fmt.Errorf("%d bytes of data, expected at most %d", len(x.data), x.reqData)
	}
	buf := make([]byte, x.BufferSize())
	if x.body != nil {
		n, err := binary.Encode(buf, binary.NativeEndian, x.body)
		if err != nil {
			return nil, err
		}
		copy(buf[n:], x.data)
	}
	if err := d.ioctl(x.Ioctl(), buf); err != nil {
		return nil, err
	}
	if rep, ok := x.rep.(*CapabilityRep); ok { // a u64 without a result
		rep.Caps = Capability(binary.NativeEndian.Uint64(buf))
		return nil, nil
	}
	if r := tpm.Result(binary.NativeEndian.Uint32(buf)); r != tpm.Success {
		return nil, r
	}
	if _, err := binary.Decode(buf, binary.NativeEndian, x.rep); err != nil {
		return nil, err
	}
	if x.repData == 0 {
		return nil, nil
	}
	n := binary.NativeEndian.Uint32(buf[x.repSize-4:]) // the last field is the length of what follows
	if n > uint32(x.repData) {
		return nil, fmt.Errorf("%w: %d bytes announced, expected at most %d", ErrReply, n, x.repData)
	}
	return buf[x.repSize:][:n], nil
}

// getState fetches a blob: the first piece by ioctl, the rest by ioctls or by read.
func (d *device) getState(x *call) (blob []byte, flags StateFlags, err error) {
	q := x.body.(GetStateReq)
	for {
		q.Offset = uint32(len(blob))
		var rep GetStateRep
		x.body, x.rep = q, &rep
		piece, err := d.do(x)
		if err != nil {
			return nil, 0, err
		}
		if rep.Total > maxState {
			return nil, 0, fmt.Errorf("%w: a blob of %d bytes announced, expected at most %d", ErrReply, rep.Total, maxState)
		}
		blob = append(blob, piece...)
		switch {
		case uint32(len(blob)) >= rep.Total:
			return blob, rep.Flags, nil
		case d.piece > 0:
			blob, err = d.readState(blob, int(rep.Total))
			return blob, rep.Flags, err
		case len(piece) == 0:
			return nil, 0, fmt.Errorf("%w: the blob ends after %d of %d bytes", ErrReply, len(blob), rep.Total)
		}
	}
}

// readState appends to blob until it has total bytes.
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

// setState sends a blob: by ioctls, of which the last is not full, or by write between two
// empty ones.
func (d *device) setState(x *call, blob []byte) error {
	if d.piece > 0 {
		return d.writeState(x, blob)
	}
	for {
		n := min(len(blob), x.reqData)
		if err := d.setPiece(x, blob[:n]); err != nil || n < x.reqData {
			return err
		}
		blob = blob[n:]
	}
}

// setPiece sends one SET_STATEBLOB.
func (d *device) setPiece(x *call, piece []byte) error {
	q := x.body.(SetStateReq)
	q.Length = uint32(len(piece))
	x.body, x.data = q, piece
	_, err := d.do(x)
	return err
}

func (d *device) writeState(x *call, blob []byte) error {
	if err := d.setPiece(x, nil); err != nil {
		return err
	}
	for len(blob) > 0 {
		n, err := d.Write(blob[:min(len(blob), d.piece)])
		if err != nil {
			return err
		}
		blob = blob[n:]
	}
	return d.setPiece(x, nil)
}
