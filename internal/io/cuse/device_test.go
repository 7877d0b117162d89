package cuse

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness/conntest"
)

// TestLayout compares the sizes of the structs with the kernel's header.
func TestLayout(t *testing.T) {
	for v, want := range map[any]int{
		inHeader{}: 40, outHeader{}: 16, initIn{}: 16, initOut{}: 64 + 8, openOut{}: 16, readIn{}: 40, writeOut{}: 8,
		interruptIn{}: 8, ioctlIn{}: 32, ioctlOut{}: 16, pollIn{}: 24, pollOut{}: 8,
	} {
		if got := binary.Size(v); got != want && !(got == 64 && want == 72) {
			t.Errorf("%T has %d bytes, want %d", v, got, want)
		}
	}
	if got := binary.Size(initOut{}); got != 72 {
		t.Errorf("struct cuse_init_out has %d bytes, want 72", got)
	}
}

// le decodes hex of integers that are little-endian.
func le(t *testing.T, s string) []byte {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes of this test are little-endian")
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRequests checks the start of each reply, and the calls of the TPM.
func TestRequests(t *testing.T) {
	k := newKernel(t)
	k.tpm.blob = []byte(strings.Repeat("b", 3080))
	const on, off = true, false
	for _, tt := range []struct {
		number       uint32
		on           bool
		in, out, did string
	}{
		{0x80085000, off, "", "ff6f010000000000", ""},
		{0xC0045001, off, "01000000", "00000000", "Init(true)"},
		{0x80085003, on, "", "0000000001000000", "Established"},
		{0x80085003, off, "", "0a00000000000000", ""},
		{0xC0045004, off, "03", "00000000", "SetLocality(3)"},
		{0xC0045004, off, "05", "3d000000", ""},
		{0x80045005, on, "", "00000000", "HashStart"},
		{0xD0045006, on, "05000000 0102030405", "00000000", "HashData(5)"},
		{0xD0045006, on, "01100000", "09000000", ""},
		{0xD0045006, off, "01000000", "0a000000", ""},
		{0x80045007, on, "", "00000000", "HashEnd"},
		{0x80045008, on, "", "00000000", "Cancel"},
		{0x80045009, on, "", "00000000", "StoreVolatile"},
		{0xC004500A, on, "04", "00000000", "ResetEstablished(4)"},
		{0xCC10500B, off, "00000000 01000000", "0a000000", ""},
		{0xCC10500B, on, "01000000 01000000 00000000", "00000000 00000000 080c0000 000c0000 62", "State(1,true)"},
		{0xCC10500B, on, "01000000 01000000 000c0000", "00000000 00000000 080c0000 08000000 62", ""},
		{0xCC10500B, on, "00000000 50414e53 00000000", "00000000 02000000 080c0000 000c0000 62", "State(1397637456,false)"},
		{0xCC10500B, on, "00000000 03000000 00000000", "00000000 02000000 080c0000 000c0000 62", "State(3,false) ReleaseStorage"},
		{0xCC10500B, on, "00000000 07000000 00000000", "03000000 00000000 00000000 00000000", ""},
		{0xCC0C500C, on, "00000000 01000000 01000000", "0a000000", ""},
		{0xCC0C500C, off, "00000000 01000000 010c0000", "03000000", ""},
		{0xCC0C500C, off, "00000000 07000000 01000000", "03000000", ""},
		{0xCC0C500C, off, "02000000 01000000 000c0000", "00000000", ""},
		{0xCC0C500C, off, "00000000 01000000 01000000", "00000000", "SetState(1,true,3073)"},
		{0x8004500D, on, "", "00000000", "Stop"},
		{0x8008500E, off, "", "0000000001000000", ""},
		{0xC0105010, off, "00080000", "00000000 00100000 000c0000 00080000", "BufferSize(2048)"},
		{0xCC105011, off, "0100000000000000 00000000", "00000000 a10f0000 000c0000 69", ""},
		{0xCC105011, off, "0100000000000000 000c0000", "00000000 a10f0000 a1030000 69", ""},
		{0xCC105011, off, "0100000000000000 a00f0000", "03000000", ""},
		{0xC0045012, off, "07000000", "00000000", "LockStorage(7)"},
	} {
		k.tpm.Set(tt.on)
		got, errno := k.ioctl(tt.number, le(t, tt.in))
		want := le(t, tt.out)
		if errno != 0 || string(got[:len(want)]) != string(want) {
			t.Errorf("ioctl %#x %s = %x, %v; want %x", tt.number, tt.in, got[:min(len(got), 20)], errno, want)
		}
		if did := k.tpm.Took(); did != tt.did {
			t.Errorf("ioctl %#x %s made the calls %q, want %q", tt.number, tt.in, did, tt.did)
		}
	}
	if _, errno := k.ioctl(0x8004500F, nil); errno != unix.EINVAL {
		t.Errorf("an unknown ioctl: %v, want EINVAL", errno)
	}
	if _, errno := k.ioctl(0x80045002, nil); errno != 0 {
		t.Errorf("SHUTDOWN: %v", errno)
	}
}

// TestOpeners checks that one process at a time can open the device.
func TestOpeners(t *testing.T) {
	k := newKernel(t)
	for range 2 {
		if _, errno := k.ask(opOpen, make([]byte, 8)); errno != 0 {
			t.Fatalf("open: %v", errno)
		}
		if _, errno := k.ask(opOpen, make([]byte, 8)); errno != unix.EBUSY {
			t.Errorf("a second opener: %v, want EBUSY", errno)
		}
		if _, errno := k.ask(opRelease, make([]byte, 24)); errno != 0 {
			t.Errorf("release: %v", errno)
		}
	}
	if _, errno := k.ask(9999, nil); errno != unix.ENOSYS {
		t.Errorf("an unknown operation: %v, want ENOSYS", errno)
	}
}

// TestReadWrite checks responses in pieces, unread responses, and a truncated write.
func TestReadWrite(t *testing.T) {
	k := newKernel(t)
	if s, errno := k.read(100); s != "" || errno != 0 {
		t.Errorf("a read of nothing: %q, %v", s, errno)
	}
	for range 2 {
		if n, errno := k.write(make([]byte, 12)); n != 12 || errno != 0 {
			t.Errorf("write: %d, %v", n, errno)
		}
	}
	var got string
	for {
		s, errno := k.read(4)
		if errno != 0 {
			t.Fatal(errno)
		}
		if got += s; s == "" {
			break
		}
	}
	if got != "response to 12 bytes" {
		t.Errorf("response in pieces: %q", got)
	}
	if n, errno := k.write(make([]byte, maxWrite)); n != tpm.MaxCommand || errno != 0 {
		t.Errorf("a long write: %d, %v", n, errno)
	}
	if s, _ := k.read(100); s != "response to 4096 bytes" {
		t.Errorf("response to a long write: %q", s)
	}
	prefixed := le(t, "00000008 00 0000000c 8001 0000000c 00000144 0000")
	if n, errno := k.write(prefixed); n != len(prefixed) || errno != 0 {
		t.Errorf("a prefixed command: %d, %v", n, errno)
	}
	if s, _ := k.read(100); s != string(tpm.ErrorResponse(tpm.V20, 0x84)) {
		t.Errorf("response to a prefixed command: %x", s)
	}
}

// TestLong checks the answers to other operations while a long command runs.
func TestLong(t *testing.T) {
	k := newKernel(t)
	long := le(t, "8002 0000000a 00000131")
	if n, errno := k.write(long); n != len(long) || errno != 0 {
		t.Fatalf("write: %d, %v", n, errno)
	}
	if _, errno := k.write(long); errno != unix.EBUSY {
		t.Errorf("a second command: %v, want EBUSY", errno)
	}
	if _, errno := k.ask(opRead, encode(readIn{Size: 10, OpenFlags: unix.O_NONBLOCK}, nil)); errno != unix.EAGAIN {
		t.Errorf("a read that does not wait: %v, want EAGAIN", errno)
	}
	if _, errno := k.ioctl(0x80045008, nil); errno != 0 || k.tpm.Took() != "Cancel" {
		t.Errorf("cancel: %v", errno)
	}
	reader := k.send(opRead, encode(readIn{Size: 10}, nil))
	k.send(opInterrupt, encode(interruptIn{Unique: reader}, nil))
	if _, errno := k.receive(); errno != unix.EINTR {
		t.Errorf("an interrupted read: %v, want EINTR", errno)
	}
	rep, errno := k.ask(opPoll, encode(pollIn{Kernel: 7, Flags: pollNotify}, nil))
	if errno != 0 || binary.NativeEndian.Uint32(rep) != 0 {
		t.Errorf("poll: %x, %v", rep, errno)
	}
	close(k.tpm.release)
	if rep, _ := k.receive(); len(rep) != 8 || binary.NativeEndian.Uint64(rep) != 7 {
		t.Errorf("notification: %x", rep)
	}
	if rep, _ := k.ask(opPoll, encode(pollIn{}, nil)); binary.NativeEndian.Uint32(rep) != unix.POLLIN|unix.POLLOUT {
		t.Errorf("poll: %x", rep)
	}
	if s, errno := k.read(100); s != "response to 10 bytes" || errno != 0 {
		t.Errorf("response: %q, %v", s, errno)
	}
}

// TestManyReaders checks that an operation that ends a wait is served however many readers wait,
// that more than maxRequests are refused, and that a release is not.
func TestManyReaders(t *testing.T) {
	k := newKernel(t)
	if _, errno := k.ask(opOpen, make([]byte, 8)); errno != 0 {
		t.Fatal(errno)
	}
	if _, errno := k.write([]byte("\x80\x01\x00\x00\x00\x0a\x00\x00\x01\x31")); errno != 0 {
		t.Fatal(errno)
	}
	read := encode(readIn{Size: 100}, nil)
	first := k.send(opRead, read)
	for range maxRequests - 2 {
		k.send(opRead, read)
	}
	if _, errno := k.ioctl(0x80045008, nil); errno != 0 {
		t.Errorf("cancel while %d wait: %v", maxRequests-1, errno)
	}
	k.until("the place of the cancel request", func() bool { return len(k.dev.waiting) == maxRequests-1 })
	k.send(opRead, read)
	k.until("all places in use", func() bool { return len(k.dev.waiting) == maxRequests })
	if _, errno := k.ask(opRead, read); errno != unix.EBUSY {
		t.Errorf("one too many: %v, want EBUSY", errno)
	}
	if _, errno := k.ask(opRelease, make([]byte, 24)); errno != 0 {
		t.Errorf("release: %v", errno)
	}
	k.send(opInterrupt, encode(interruptIn{Unique: first}, nil))
	if _, errno := k.receive(); errno != unix.EINTR {
		t.Errorf("an interrupted read: %v, want EINTR", errno)
	}
	close(k.tpm.release)
	got := 0
	for range maxRequests - 1 {
		rep, errno := k.receive()
		if errno != 0 {
			t.Fatalf("a read: %v", errno)
		}
		got += len(rep)
	}
	if want := len("response to 10 bytes"); got != want {
		t.Errorf("the readers got %d bytes, want %d", got, want)
	}
}

// TestPieces checks offsets and lengths that are negative in an int of 32 bits.
func TestPieces(t *testing.T) {
	k := newKernel(t)
	k.tpm.blob = []byte("blob")
	for _, n := range []uint32{1 << 31, 1<<32 - 1} {
		rep, errno := k.ioctl(0xCC10500B, encode(ctrl.GetStateReq{Type: tpm.Permanent, Offset: n}, nil))
		var got ctrl.GetStateRep
		if _, err := decode(rep, &got); err != nil || errno != 0 || got.Result != tpm.Success || got.Length != 0 || got.Total != 4 {
			t.Errorf("GET_STATEBLOB at %d: %+v, %v", n, got, errno)
		}
		if rep, errno := k.ioctl(0xCC105011, encode(ctrl.InfoReq{Flags: 1, Offset: n}, nil)); errno != 0 || result(rep) != tpm.BadParameter {
			t.Errorf("GET_INFO at %d: %x, %v", n, result(rep), errno)
		}
		if rep, errno := k.ioctl(0xD0045006, encode(n, nil)); errno != 0 || result(rep) != tpm.Fail {
			t.Errorf("HASH_DATA of %d bytes: %x, %v", n, result(rep), errno)
		}
	}
	k.tpm.Set(false)
	for _, n := range []uint32{ctrl.MaxPiece + 1, 1 << 31, 1<<32 - 1} {
		rep, errno := k.ioctl(0xCC0C500C, encode(ctrl.SetStateReq{Type: tpm.Permanent, Length: n}, nil))
		if errno != 0 || result(rep) != tpm.BadParameter {
			t.Errorf("SET_STATEBLOB of %d bytes: %x, %v", n, result(rep), errno)
		}
	}
}

// result returns the first field of a reply.
func result(rep []byte) tpm.Result {
	var r tpm.Result
	_, _ = decode(rep, &r)
	return r
}

// TestBlobTransfer checks a blob by read and by write, and the operations that are refused
// meanwhile.
func TestBlobTransfer(t *testing.T) {
	k := newKernel(t)
	k.tpm.blob = []byte(strings.Repeat("b", 5000))
	get := encode(ctrl.GetStateReq{Type: tpm.Volatile}, nil)
	if _, errno := k.ioctl(0xCC10500B, get); errno != 0 {
		t.Fatal(errno)
	}
	left := 5000 - ctrl.MaxPiece
	for left > 0 {
		s, errno := k.read(1000)
		if errno != 0 || len(s) != min(left, 1000) {
			t.Fatalf("read: %d bytes, %v", len(s), errno)
		}
		left -= len(s)
	}
	if _, errno := k.ioctl(0xCC10500B, get); errno != 0 {
		t.Fatal(errno)
	}
	if _, errno := k.write(make([]byte, 12)); errno != unix.EIO {
		t.Errorf("a command while a blob is fetched: %v, want EIO", errno)
	}
	if n, errno := k.write(make([]byte, 12)); n != 12 || errno != 0 {
		t.Errorf("the command after it: %d, %v", n, errno)
	}

	k.tpm.Set(false)
	set := encode(ctrl.SetStateReq{Type: tpm.Permanent}, nil)
	k.tpm.Took()
	if rep, _ := k.ioctl(0xCC0C500C, set); binary.NativeEndian.Uint32(rep) != 0 {
		t.Errorf("an empty piece: %x", rep[:4])
	}
	if _, errno := k.read(10); errno != unix.EIO {
		t.Errorf("a read while a blob is set: %v, want EIO", errno)
	}
	for range 3 {
		if n, errno := k.write(make([]byte, 2000)); n != 2000 || errno != 0 {
			t.Errorf("write: %d, %v", n, errno)
		}
	}
	if rep, _ := k.ioctl(0xCC0C500C, set); binary.NativeEndian.Uint32(rep) != 0 || k.tpm.Took() != "SetState(1,false,6000)" {
		t.Errorf("the last piece: %x", rep[:4])
	}
	k.tpm.err = unix.EAGAIN
	if _, errno := k.ioctl(0xCC0C500C, set); errno != unix.EIO {
		t.Errorf("without the lock of the state: %v, want EIO", errno)
	}
}

// TestNames checks the names that a device can have.
func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"vtpm0": true, "tpm-a.b": true, "": false, "a/b": false, "..": false, "a b": true, strings.Repeat("x", 65): false} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
}

// FuzzMessage checks that no message of the kernel causes a panic, and that the reply to an
// ioctl has the size that is in its number.
func FuzzMessage(f *testing.F) {
	for _, r := range ctrl.Requests {
		f.Add(uint32(opIoctl), encode(ioctlIn{Number: r.Ioctl(), InSize: 12}, make([]byte, 12)), true)
	}
	for _, op := range []uint32{opOpen, opRead, opWrite, opPoll, opRelease, opInterrupt} {
		f.Add(op, make([]byte, 44), false)
	}
	f.Fuzz(func(t *testing.T, op uint32, body []byte, on bool) {
		wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		d, err := newDevice(wake, "x")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { d.Close(patience); _ = unix.Close(d.wake) }()
		release := make(chan struct{})
		close(release)
		f := &fake{version: tpm.V20, release: release, blob: make([]byte, 4000)}
		f.Set(on)
		d.tpm = f
		d.opt = Options{Log: &conntest.Log{}, End: func(error) {}}
		stop := make(chan struct{})
		close(stop)
		for range 2 {
			if op == opWrite {
				if cmd, _, _ := d.begin(body); cmd != nil {
					_ = d.run(cmd)
				}
				continue
			}
			rep, _, err := d.handle(op, append([]byte(nil), body...), stop)
			if op != opIoctl || err != nil {
				continue
			}
			var in ioctlIn
			if _, err := decode(body, &in); err != nil || len(rep) != 16+size(in.Number) {
				t.Errorf("ioctl %#x is answered by %d bytes", in.Number, len(rep))
			}
		}
		d.interrupt(body)
	})
}
