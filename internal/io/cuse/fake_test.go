package cuse

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness/conntest"
)

// fake is a TPM that records its calls. Commands that have 0x131 as their code
// wait for release.
type fake struct {
	conntest.TPM
	version tpm.Version
	release chan struct{}
	blob    []byte // what State returns
	err     error  // of PrepareSetState
}

func (f *fake) Version() tpm.Version                  { return f.version }
func (f *fake) ResetEstablished(l tpm.Locality) error { return f.Call("ResetEstablished(%d)", l) }
func (f *fake) HashData(b []byte) error               { return f.Call("HashData(%d)", len(b)) }
func (f *fake) MaxCommand() int                       { return tpm.MaxCommand }
func (f *fake) PrepareSetState() error                { return f.err }
func (f *fake) Keys() (file, migration bool)          { return true, false }
func (f *fake) Info(uint64) (string, error)           { return strings.Repeat("i", 4000), nil }
func (f *fake) BufferSize(n uint32) (a, b, c uint32, err error) {
	return 4096, 3072, n, f.Call("BufferSize(%d)", n)
}

func (f *fake) State(b tpm.Blob, plain bool) ([]byte, bool, error) {
	if f.blob == nil {
		return nil, false, tpm.Retry
	}
	return append([]byte(nil), f.blob...), !plain, f.Call("State(%d,%v)", b, plain)
}

func (f *fake) SetState(b tpm.Blob, encrypted bool, blob []byte) error {
	return f.Call("SetState(%d,%v,%d)", b, encrypted, len(blob))
}

func (f *fake) Execute(raw []byte) ([]byte, error) {
	if h, _ := tpm.ParseHeader(raw); h.Code == 0x131 {
		<-f.release
	}
	return []byte(fmt.Sprintf("response to %d bytes", len(raw))), f.Call("Execute(%d)", len(raw))
}

var _ ctrl.TPM = (*fake)(nil)

// patience is how long something may take that must happen.
const patience = time.Minute

// size returns the size of the buffer of an ioctl, which is in its number.
func size(number uint32) int { return int(number >> 16 & 0x3fff) }

// kernel is the other end of /dev/cuse.
type kernel struct {
	t    *testing.T
	fd   int
	tpm  *fake
	dev  *Device
	last uint64

	mu    sync.Mutex
	ended string // how the device reported that the process must end
}

// newKernel serves a device whose kernel is the test.
func newKernel(t *testing.T) *kernel {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	timeout := unix.NsecToTimeval(patience.Nanoseconds())
	for _, way := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		_ = unix.SetsockoptTimeval(p[0], unix.SOL_SOCKET, way, &timeout)
	}
	d, err := newDevice(p[1], "vtpm0")
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{t: t, fd: p[0], dev: d, tpm: &fake{version: tpm.V20, release: make(chan struct{})}}
	k.tpm.Set(true)
	k.send(opInit, encode(initIn{Major: 7, Minor: 36}, nil))
	if err := d.Create(10, 200); err != nil {
		t.Fatal(err)
	}
	out, _ := k.receive()
	want := encode(initOut{Major: 7, Minor: 11, MaxRead: maxRead, MaxWrite: maxWrite, DevMajor: 10, DevMinor: 200}, []byte("DEVNAME=vtpm0\x00"))
	if string(out) != string(want) {
		t.Fatalf("CUSE_INIT is answered by %x, want %x", out, want)
	}
	end := func(how string) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.ended = how
	}
	engine := make(chan func(), 2*maxRequests)
	go func() {
		for f := range engine {
			f()
		}
	}()
	run := func(f func()) bool { engine <- f; return true }
	go d.Serve(k.tpm, Options{Engine: run, Log: &conntest.Log{}, End: func(reason error) { end(reason.Error()) }})
	t.Cleanup(func() { d.Close(patience); _ = unix.Close(k.fd); close(engine) })
	return k
}

// again calls f until no signal interrupts it: Go's runtime sends some to its threads, and the kernel does not
// restart a call on a socket with a timeout.
func again(f func() (int, error)) (n int, err error) {
	for n, err = f(); err == unix.EINTR; n, err = f() {
	}
	return n, err
}

// send sends a request and returns its name.
func (k *kernel) send(op uint32, body []byte) uint64 {
	k.t.Helper()
	k.last++
	h := inHeader{Op: op, Unique: k.last}
	h.Len = uint32(binary.Size(h) + len(body))
	if _, err := again(func() (int, error) { return unix.Write(k.fd, encode(h, body)) }); err != nil {
		k.t.Fatal(err)
	}
	return k.last
}

// receive returns the next reply: its body, or its errno.
func (k *kernel) receive() ([]byte, unix.Errno) {
	k.t.Helper()
	b := make([]byte, 1<<17)
	n, err := again(func() (int, error) { return unix.Read(k.fd, b) })
	if err != nil {
		k.t.Fatal(err)
	}
	var h outHeader
	rest, err := decode(b[:n], &h)
	if err != nil || int(h.Len) != n {
		k.t.Fatalf("a reply of %d bytes: %x", n, b[:n])
	}
	if h.Unique == 0 {
		return rest, 0 // a notification
	}
	if h.Error != 0 {
		return nil, unix.Errno(-h.Error)
	}
	return rest, 0
}

func (k *kernel) ask(op uint32, body []byte) ([]byte, unix.Errno) {
	k.t.Helper()
	k.send(op, body)
	return k.receive()
}

// until waits for a condition, which it checks with the device's mu held.
func (k *kernel) until(what string, cond func() bool) {
	k.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		k.dev.mu.Lock()
		ok := cond()
		k.dev.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			k.t.Fatalf("timeout: waited for %s", what)
		}
	}
}

// write writes and returns the number of accepted bytes.
func (k *kernel) write(b []byte) (int, unix.Errno) {
	k.t.Helper()
	rep, errno := k.ask(opWrite, encode(readIn{Size: uint32(len(b))}, b))
	if errno != 0 {
		return 0, errno
	}
	var out writeOut
	_, _ = decode(rep, &out)
	return int(out.Size), 0
}

func (k *kernel) read(n int) (string, unix.Errno) {
	k.t.Helper()
	rep, errno := k.ask(opRead, encode(readIn{Size: uint32(n)}, nil))
	return string(rep), errno
}

// ioctl sends a struct that is filled with zeros to its size and returns it as it
// comes back.
func (k *kernel) ioctl(number uint32, arg []byte) ([]byte, unix.Errno) {
	k.t.Helper()
	in := ioctlIn{Number: number, OutSize: uint32(size(number))}
	const write = 1
	if number>>30&write != 0 {
		arg = append(arg, make([]byte, size(number)-len(arg))...)
		in.InSize = uint32(size(number))
	} else {
		arg = nil
	}
	rep, errno := k.ask(opIoctl, encode(in, arg))
	if errno != 0 {
		return nil, errno
	}
	var out ioctlOut
	rest, err := decode(rep, &out)
	if err != nil || out.Result != 0 || len(rest) != size(number) {
		k.t.Fatalf("ioctl %#x: %v, %d, a struct of %d bytes", number, err, out.Result, len(rest))
	}
	return rest, 0
}
