package ctrl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"golang.org/x/sys/unix"
)

// TestIoctls compares the numbers with swtpm's public header, evaluated by a C compiler for
// x86-64.
func TestIoctls(t *testing.T) {
	want := []uint32{
		0x80085000, 0xC0045001, 0x80045002, 0x80085003, 0xC0045004, 0x80045005, 0xD0045006, 0x80045007, 0x80045008,
		0x80045009, 0xC004500A, 0xCC10500B, 0xCC0C500C, 0x8004500D, 0x8008500E, 0x8004500F, 0xC0105010, 0xCC105011, 0xC0045012,
	}
	for i, r := range Requests {
		switch number := r.Ioctl(); {
		case i >= len(want):
			t.Errorf("%s: the test has no number", r)
		case number != want[i]:
			t.Errorf("%s is %#x, want %#x", r, number, want[i])
		case r.Code != SetDataFD && FindIoctl(number) != r:
			t.Errorf("FindIoctl(%#x) = %v, want %s", number, FindIoctl(number), r)
		}
	}
	for _, number := range []uint32{0x8004500F, 0x80045001, 0x80045013, 0, 0xffffffff} {
		if r := FindIoctl(number); r != nil {
			t.Errorf("FindIoctl(%#x) = %s, want none", number, r)
		}
	}
}

// fakeDevice acts as the CUSE emulator does: it has one state blob, which it sends and
// receives in pieces, by ioctl or by read and write.
type fakeDevice struct {
	blob    []byte // the blob of GET_STATEBLOB
	info    string
	set     []byte // the blob of SET_STATEBLOB
	done    bool   // set is complete
	reading int    // offset of the next read
	setting bool   // write is allowed
	log     []byte // bodies of some requests
}

func (f *fakeDevice) ioctl(number uint32, buf []byte) error {
	ne := binary.NativeEndian
	arg := append([]byte(nil), buf...)
	clear(buf)
	switch Code(number&0xff) + 1 {
	case GetCapability:
		ne.PutUint64(buf, 0x16fff)
	case GetTPMEstablished:
		buf[4] = 1
	case SetLocality, ResetTPMEstablished, Init, LockStorage:
		f.log = append(f.log, arg...)
	case HashData:
		f.log = append(f.log, arg[4:4+ne.Uint32(arg)]...)
	case GetConfig:
		ne.PutUint32(buf[4:], 3)
	case SetBufferSize:
		ne.PutUint32(buf[4:], ne.Uint32(arg))
		ne.PutUint32(buf[8:], 2808)
		ne.PutUint32(buf[12:], 4096)
	case GetInfo:
		text := append([]byte(f.info), 0)
		ne.PutUint32(buf[4:], uint32(len(text)))
		ne.PutUint32(buf[8:], uint32(copy(buf[12:12+3072], text[ne.Uint32(arg[8:]):])))
	case GetStateBlob:
		if ne.Uint32(arg[4:]) == uint32(tpm.Savestate) {
			ne.PutUint32(buf, uint32(tpm.Retry))
			return nil
		}
		offset := int(ne.Uint32(arg[8:]))
		n := copy(buf[16:], f.blob[offset:])
		f.reading = offset + n
		ne.PutUint32(buf[4:], ne.Uint32(arg))
		ne.PutUint32(buf[8:], uint32(len(f.blob)))
		ne.PutUint32(buf[12:], uint32(n))
	case SetStateBlob:
		n := int(ne.Uint32(arg[8:]))
		f.set = append(f.set, arg[12:12+n]...)
		f.done = n < 3072 && (n > 0 || f.setting || len(f.set) > 0)
		f.setting = n == 0 && !f.done
	default:
		return unix.EINVAL
	}
	return nil
}

func (f *fakeDevice) Read(b []byte) (int, error) {
	n := copy(b, f.blob[f.reading:])
	f.reading += n
	return n, nil
}

func (f *fakeDevice) Write(b []byte) (int, error) {
	if !f.setting {
		return 0, unix.EIO
	}
	f.set = append(f.set, b...)
	return len(b), nil
}

func (f *fakeDevice) Close() error { return nil }

// TestDeviceState checks that blobs of each size are read and written in pieces of each size.
func TestDeviceState(t *testing.T) {
	for _, size := range []int{1, 3071, 3072, 3073, 6144, 10000} {
		for _, piece := range []int{0, 1, 4096, 20000} {
			blob := bytes.Repeat([]byte("tpm"), size/3+1)[:size]
			f := &fakeDevice{blob: blob}
			d := &Client{carrier: &device{ReadWriteCloser: f, ioctl: f.ioctl, piece: piece}}
			got, flags, err := d.State(tpm.Volatile, true)
			if err != nil || !bytes.Equal(got, blob) || flags != 1 {
				t.Errorf("State of %d bytes by %d = %d bytes, flags %d, %v", size, piece, len(got), flags, err)
			}
			err = d.SetState(tpm.Volatile, 0, blob)
			if err != nil || !bytes.Equal(f.set, blob) || !f.done {
				t.Errorf("SetState of %d bytes by %d: %d bytes came, finished %v, %v", size, piece, len(f.set), f.done, err)
			}
		}
	}
}

// TestDeviceShort checks that a device that stops in the middle of a blob is an error.
func TestDeviceShort(t *testing.T) {
	for _, piece := range []int{0, 100} {
		f := &fakeDevice{blob: make([]byte, 5000)}
		d := &Client{carrier: &device{ReadWriteCloser: f, piece: piece, ioctl: func(number uint32, buf []byte) error {
			err := f.ioctl(number, buf)
			binary.NativeEndian.PutUint32(buf[8:], 6000)
			return err
		}}}
		if _, _, err := d.State(tpm.Volatile, true); err == nil || piece > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("State by %d of a device that stops = %v, want an error", piece, err)
		}
	}
}

// TestDeviceRequests checks the requests of a device, and its errors.
func TestDeviceRequests(t *testing.T) {
	f := &fakeDevice{info: string(bytes.Repeat([]byte("i"), 7000))}
	d := &Client{carrier: &device{ReadWriteCloser: f, ioctl: f.ioctl}}
	if c, err := d.Capability(); c != 0x16fff || err != nil {
		t.Errorf("Capability = %#x, %v, want 0x16fff", c, err)
	}
	if b, err := d.Established(); !b || err != nil {
		t.Errorf("Established = %v, %v, want true", b, err)
	}
	if c, err := d.Config(); c != 3 || err != nil {
		t.Errorf("Config = %v, %v, want 3", c, err)
	}
	if s, err := d.BufferSize(3000); s.Size != 3000 || s.Min != 2808 || s.Max != 4096 || err != nil {
		t.Errorf("BufferSize = %v, %v", s, err)
	}
	if s, err := d.Info(1); s != f.info || err != nil {
		t.Errorf("Info = %d bytes, %v, want %d", len(s), err, len(f.info))
	}
	if _, _, err := d.State(tpm.Savestate, true); !errors.Is(err, tpm.Retry) {
		t.Errorf("State of no savestate = %v, want %v", err, tpm.Retry)
	}
	for _, err := range []error{d.SetLocality(2), d.ResetEstablished(3), d.HashData([]byte("abc"))} {
		if err != nil {
			t.Error(err)
		}
	}
	if want := "\x02\x00\x00\x00\x03\x00\x00\x00abc"; string(f.log) != want {
		t.Errorf("the device got %q, want %q", f.log, want)
	}
	if err := d.HashData(make([]byte, 4097)); err == nil {
		t.Error("HashData of 4097 bytes = nil, want an error")
	}
	if err := d.Stop(); !errors.Is(err, unix.EINVAL) {
		t.Errorf("Stop of a device that has no such ioctl = %v, want %v", err, unix.EINVAL)
	}
}
