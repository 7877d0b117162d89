package cuse

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The operations that the kernel requests, with its numbers.
//
// Source: Linux, include/uapi/linux/fuse.h, enum fuse_opcode. All structs of this
// file are from that header, in the byte order of the machine.
const (
	opRead      = 15
	opWrite     = 16
	opOpen      = 14
	opRelease   = 18
	opFsync     = 20
	opFlush     = 25
	opInterrupt = 36
	opIoctl     = 39
	opPoll      = 40
	opInit      = 4096
)

// inHeader is struct fuse_in_header.
//
//	off len field
//	  0   4 Len     bytes of the message, with the header
//	  4   4 Op
//	  8   8 Unique  identifies the request in its reply
//	 16   8 node
//	 24  16 uid, gid, pid of the caller, padding
type inHeader struct {
	Len, Op uint32
	Unique  uint64
	_       [24]byte
}

// outHeader is struct fuse_out_header; Error is a negative errno. In a notification Unique
// is 0 and Error is the kind.
type outHeader struct {
	Len    uint32
	Error  int32
	Unique uint64
}

// notifyPoll is FUSE_NOTIFY_POLL: the user is to poll again.
const notifyPoll = 1

// initIn is struct cuse_init_in.
type initIn struct {
	Major, Minor, _, Flags uint32
}

// initOut is struct cuse_init_out; "DEVNAME=NAME" and a NUL follow it. Without the
// flag CUSE_UNRESTRICTED_IOCTL the kernel derives from the number of an ioctl which part of
// the caller's memory is copied in and out; the device sees nothing else of it.
type initOut struct {
	Major, Minor, _, Flags uint32
	MaxRead, MaxWrite      uint32
	DevMajor, DevMinor     uint32
	_                      [10]uint32
}

// The version of the protocol that the device speaks: 7.11 is sufficient, and newer
// kernels support it.
const (
	protoMajor = 7
	protoMinor = 11
)

// openOut is struct fuse_open_out.
type openOut struct {
	Handle uint64
	Flags  uint32
	_      uint32
}

// The flags of openOut: no cache, no position.
const directIO, nonSeekable = 1 << 0, 1 << 2

// readIn is struct fuse_read_in and struct fuse_write_in, whose bytes follow it.
type readIn struct {
	_, _      uint64
	Size, _   uint32
	_         uint64
	OpenFlags uint32
	_         uint32
}

// writeOut is struct fuse_write_out.
type writeOut struct{ Size, _ uint32 }

// interruptIn is struct fuse_interrupt_in.
type interruptIn struct{ Unique uint64 }

// ioctlIn is struct fuse_ioctl_in; InSize bytes follow it.
type ioctlIn struct {
	_               uint64
	_, Number       uint32
	_               uint64
	InSize, OutSize uint32
}

// ioctlOut is struct fuse_ioctl_out; the caller's buffer follows it.
type ioctlOut struct {
	Result  int32
	_, _, _ uint32
}

// pollIn is struct fuse_poll_in.
type pollIn struct {
	_, Kernel     uint64 // Kernel is for notifications
	Flags, Events uint32
}

// pollNotify is FUSE_POLL_SCHEDULE_NOTIFY.
const pollNotify = 1

// pollOut is struct fuse_poll_out.
type pollOut struct{ Events, _ uint32 }

// parse splits a message into header and body; ok is false if it is invalid.
func parse(msg []byte) (h inHeader, body []byte, ok bool) {
	n, err := binary.Decode(msg, binary.NativeEndian, &h)
	if err != nil || int(h.Len) != len(msg) {
		return h, nil, false
	}
	return h, msg[n:], true
}

// decode fills the fields of v from the start of body and returns the rest.
func decode(body []byte, v any) (rest []byte, err error) {
	n, err := binary.Decode(body, binary.NativeEndian, v)
	if err != nil {
		return nil, unix.EINVAL
	}
	return body[n:], nil
}

// encode returns the bytes of v followed by more.
func encode(v any, more []byte) []byte {
	b, _ := binary.Append(nil, binary.NativeEndian, v) // all of fixed size
	return append(b, more...)
}

// message returns the bytes of a reply or a notification.
func message(unique uint64, code int32, body []byte) []byte {
	h := outHeader{Error: code, Unique: unique}
	h.Len = uint32(binary.Size(h) + len(body))
	return encode(h, body)
}
