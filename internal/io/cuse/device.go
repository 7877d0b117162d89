// Package cuse serves a TPM as a character device in user space: it speaks the protocol of
// /dev/cuse (module cuse) and answers the operations that the kernel passes on: open,
// read, write, poll, release, interrupt, and the ioctls, which are the requests of package
// ctrl. The TPM interface executes commands and requests.
package cuse

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TPM executes the commands and requests of the device.
type TPM interface {
	ctrl.TPM

	// MaxCommand and Execute: see data.TPM.
	MaxCommand() int
	Execute(raw []byte) (rsp []byte, err error)
}

// Options are the settings of a Device.
type Options struct {
	// Engine calls f on the thread of the engine, later. It returns false if that
	// has ended.
	Engine func(f func()) bool

	Log conn.Logger

	// End ends the process, later. The reason is ctrl.ErrShutdown, or the error that
	// prevents the process from continuing.
	End func(reason error)
}

// control is the device that creates the others.
const control = "/dev/cuse"

const (
	// maxWrite is the most that one write transfers, in bytes. More than a command is
	// cut off, which ends the kernel's loop over a longer one.
	maxWrite = 2 * tpm.LargestCommand

	maxRead = 32 << 10

	// maxRequests is the number of requests that run or wait at a time. A thread of the
	// user waits for each. More are refused, because they would keep operations that end
	// them in the kernel: an interrupt, PTM_CANCEL_TPM_CMD, a release.
	maxRequests = 1024
)

// Device is a character device, which one process at a time may open.
type Device struct {
	fd   int
	name string
	wake int // eventfd, readable when the device closes
	tpm  TPM
	opt  Options

	done sync.WaitGroup

	mu      sync.Mutex
	waiting map[uint64]chan struct{} // of requests that run; closed by an interrupt
	file    file
}

// Open opens /dev/cuse for the device /dev/NAME, which requires root.
func Open(name string) (*Device, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	fd, err := unix.Open(control, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == unix.ENOENT || err == unix.ENODEV || err == unix.ENXIO {
		return nil, fmt.Errorf("open %s: %w; load the kernel's driver: modprobe cuse", control, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", control, err)
	}
	return newDevice(fd, name)
}

func newDevice(fd int, name string) (*Device, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &Device{fd: fd, name: name, wake: wake, waiting: map[uint64]chan struct{}{}}, nil
}

// CheckName returns an error if no device can have this name.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > 64 || strings.ContainsAny(name, "/!,=\x00\n") {
		return fmt.Errorf("invalid device name %q: expected at most 64 characters without a slash", name)
	}
	return nil
}

// initWait is how long the kernel may take for its first message.
const initWait = 30 * time.Second

// Create creates the device with this device number; with major 0 the kernel chooses one.
// Its users wait until Serve is called.
func (d *Device) Create(major, minor uint32) error {
	ready, err := conn.Wait(d.fd, -1, unix.POLLIN, initWait)
	if err == nil && !ready {
		err = errors.New("no message from the kernel")
	}
	buf := make([]byte, bufferSize)
	n := 0
	if err == nil {
		n, err = unix.Read(d.fd, buf)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", control, err)
	}
	h, body, ok := parse(buf[:n])
	var in initIn
	if _, err := decode(body, &in); err != nil || !ok || h.Op != opInit || in.Major != protoMajor || in.Minor < protoMinor {
		return fmt.Errorf("%s: unexpected version %d.%d of the kernel's protocol, expected %d.%d", control, in.Major, in.Minor, protoMajor, protoMinor)
	}
	out := initOut{Major: protoMajor, Minor: protoMinor, MaxRead: maxRead, MaxWrite: maxWrite, DevMajor: major, DevMinor: minor}
	if _, err := unix.Write(d.fd, message(h.Unique, 0, encode(out, []byte("DEVNAME="+d.name+"\x00")))); err != nil {
		return fmt.Errorf("%s: create device %q: %w", control, d.name, err)
	}
	// The kernel does not answer a refused reply: it closes the connection.
	if _, err := conn.Wait(d.fd, -1, unix.POLLIN, 0); err != nil {
		return fmt.Errorf("%s: the kernel refused device %q with number %d:%d; name or number may be in use", control, d.name, major, minor)
	}
	return nil
}

// bufferSize is larger than any message, in bytes: the kernel requires 8 KiB at least, and
// space for maxWrite.
const bufferSize = 4096 + maxWrite

// Serve answers the users of the device until Close is called or the kernel removes it.
func (d *Device) Serve(t TPM, o Options) {
	d.tpm, d.opt = t, o
	buf := make([]byte, bufferSize)
	for {
		if _, err := conn.Wait(d.fd, d.wake, unix.POLLIN, -1); err != nil {
			d.lost(err)
			return
		}
		n, err := unix.Read(d.fd, buf)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN || err == unix.ENOENT: // ENOENT: the request was interrupted
			continue
		case err != nil:
			d.lost(err)
			return
		case n == 0:
			d.lost(io.EOF)
			return
		}
		d.take(buf[:n])
		clear(buf[:n])
	}
}

// lost ends the process if the kernel has closed the connection.
func (d *Device) lost(err error) {
	if err != conn.ErrWoken {
		d.opt.End(fmt.Errorf("%s: the kernel removed the device: %w", control, err))
	}
}

// take answers one message, now or later. It does not retain msg.
//
// Operations that may have to wait for the engine or the disk run on the thread of the
// engine, one after the other. A read that waits for the command that runs is a goroutine,
// which occupies no thread while it waits.
func (d *Device) take(msg []byte) {
	h, body, ok := parse(msg)
	if !ok {
		d.opt.Log.Infof("cuse: invalid message of %d bytes dropped", len(msg))
		return
	}
	if h.Op == opInterrupt {
		d.interrupt(body)
		return
	}
	stop := make(chan struct{})
	d.mu.Lock()
	if len(d.waiting) >= maxRequests && h.Op != opRelease {
		d.mu.Unlock()
		d.reply(h.Unique, nil, unix.EBUSY)
		return
	}
	d.waiting[h.Unique] = stop
	d.mu.Unlock()
	body = append([]byte(nil), body...)
	answer := func() {
		rep, after, err := d.handle(h.Op, body, stop)
		clear(body)
		d.finish(h.Unique, rep, after, err)
	}
	switch {
	case h.Op == opWrite:
		d.takeWrite(h.Unique, body)
	case h.Op == opRead:
		d.done.Go(answer)
	case h.Op == opIoctl && inEngine(body):
		if powersOff(body) { // this ends the wait of a command for a full disk
			d.tpm.EndWait()
		}
		d.engine(answer)
	default:
		answer()
	}
}

// engine calls f on the thread of the engine, later.
func (d *Device) engine(f func()) {
	d.done.Add(1)
	if !d.opt.Engine(func() { defer d.done.Done(); f() }) {
		d.done.Done() // the process ends
	}
}

// takeWrite answers a write: of a command after it has run, unless it may take long.
func (d *Device) takeWrite(unique uint64, body []byte) {
	cmd, rep, err := d.begin(body)
	clear(body)
	if cmd == nil {
		d.finish(unique, rep, nil, err)
		return
	}
	h, _ := tpm.ParseHeader(cmd)
	if isAsynchronous(d.tpm.Version(), h.Code) && d.tpm.On() {
		d.finish(unique, rep, nil, nil)
		d.engine(func() { _ = d.run(cmd) })
		return
	}
	d.engine(func() { d.finish(unique, rep, nil, d.run(cmd)) })
}

// finish answers a message.
func (d *Device) finish(unique uint64, rep []byte, after func(), err error) {
	d.mu.Lock()
	delete(d.waiting, unique)
	d.mu.Unlock()
	d.reply(unique, rep, err)
	clear(rep)
	if after != nil {
		after()
	}
}

// interrupt ends the wait of a request whose caller got a signal.
func (d *Device) interrupt(body []byte) {
	var in interruptIn
	if _, err := decode(body, &in); err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if stop, ok := d.waiting[in.Unique]; ok {
		delete(d.waiting, in.Unique)
		close(stop)
	}
}

// reply sends the answer to one message.
func (d *Device) reply(unique uint64, body []byte, err error) {
	code := int32(0)
	if err != nil {
		code, body = -int32(asErrno(err)), nil
	}
	msg := message(unique, code, body)
	// ENOENT: the caller was killed.
	if _, err := unix.Write(d.fd, msg); err != nil && err != unix.ENOENT {
		d.opt.Log.Infof("cuse: write a reply of %d bytes: %v", len(msg), err)
	}
	clear(msg)
}

// handle executes one operation. after is called once the reply is sent.
func (d *Device) handle(op uint32, body []byte, stop <-chan struct{}) (rep []byte, after func(), err error) {
	switch op {
	case opOpen:
		rep, err = d.open()
	case opRelease:
		d.release()
	case opRead:
		rep, err = d.read(body, stop)
	case opPoll:
		rep, err = d.poll(body)
	case opIoctl:
		return d.ioctl(body)
	case opFlush, opFsync: // nothing is buffered
	default:
		err = unix.ENOSYS
	}
	return rep, nil, err
}

// Close removes the device after the requests that run are answered, but waits for them no
// longer than wait. A user that waits for a response gets it first.
func (d *Device) Close(wait time.Duration) {
	_, _ = unix.Write(d.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	done := make(chan struct{})
	go func() { d.done.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(wait):
	}
	_ = unix.Close(d.fd)
}
