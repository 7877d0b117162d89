package fuzzlive_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

const (
	workersPerChannel = 3
	idlePerWorker     = 2  // connections that stay open and say nothing
	floodSize         = 40 // connections at once, more than have a place
	remembered        = 40 // what a worker sent last
)

// fleet are the workers of an emulator.
type fleet struct {
	e           *emulator
	workers     []*worker
	connections atomic.Int64
	sent        atomic.Int64
}

// worker sends to one channel, one connection at a time.
type worker struct {
	*generator
	f       *fleet
	name    string
	control bool
	idle    []net.Conn
	last    [][]byte
}

// newFleet makes the workers; each has a stream of its own of what follows from seed.
func newFleet(e *emulator, seed uint64) *fleet {
	f := &fleet{e: e}
	for i := range workersPerChannel {
		f.add("control", true, seed, uint64(2*i))
		if !e.noData {
			f.add("data", false, seed, uint64(2*i+1))
		}
	}
	blobs := f.fetchBlobs()
	for _, w := range f.workers {
		w.blobs = blobs
	}
	return f
}

func (f *fleet) add(name string, control bool, seed, stream uint64) {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, stream)), v: f.e.v}
	f.workers = append(f.workers, &worker{generator: g, f: f, name: name, control: control})
}

// fetchBlobs asks for the state blobs of the TPM, to be mutated.
func (f *fleet) fetchBlobs() (blobs [][]byte) {
	for _, kind := range []string{"00000001", "00000002"} {
		conn, err := f.e.dial(f.e.ctrl)
		if err != nil {
			return blobs
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = conn.Write(harness.Unhex("0000000c 00000001" + kind + "00000000"))
		head := make([]byte, 16)
		if _, err := io.ReadFull(conn, head); err == nil {
			blob := make([]byte, min(binary.BigEndian.Uint32(head[12:]), 512<<10))
			if _, err := io.ReadFull(conn, blob); err == nil {
				blobs = append(blobs, blob)
			}
		}
		_ = conn.Close()
	}
	return blobs
}

// run lets the workers work for d, next to a client of each channel that must be
// answered. All connections are closed at the end.
func (f *fleet) run(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var group sync.WaitGroup
	for _, w := range f.workers {
		group.Go(func() {
			for ctx.Err() == nil && !f.e.ended() {
				w.connect()
			}
			w.leave(0)
		})
	}
	var unanswered error
	for ctx.Err() == nil && !f.e.ended() && unanswered == nil {
		unanswered = f.answered()
		select {
		case <-ctx.Done():
		case <-time.After(300 * time.Millisecond):
		}
	}
	cancel()
	group.Wait()
	if unanswered != nil || f.e.ended() {
		f.dump(t)
		f.e.complain(t, "the emulator has ended, or does not answer: %v", unanswered)
	}
}

// answered checks that proper clients are answered. In a flood, a client may be evicted before
// its first answer; then it connects again.
func (f *fleet) answered() error {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end) && !f.e.ended(); {
		if err = f.e.alive(); err == nil {
			return nil
		}
	}
	return err
}

// dump prints what the workers sent last.
func (f *fleet) dump(t *testing.T) {
	for i, w := range f.workers {
		for _, b := range w.last {
			t.Logf("worker %d, %s: %x%s", i, w.name, b[:min(len(b), 64)], map[bool]string{true: "…"}[len(b) > 64])
		}
	}
}

// channel is the address that the worker connects to.
func (w *worker) channel() string {
	if w.control {
		return w.f.e.ctrl
	}
	return w.f.e.data
}

// connect opens a connection, sends messages on it, and ends it.
func (w *worker) connect() {
	if w.chance(200) {
		w.flood()
		return
	}
	conn, err := w.f.e.dial(w.channel())
	if err != nil {
		time.Sleep(10 * time.Millisecond)
		return
	}
	w.f.connections.Add(1)
	for i := range 1 + w.IntN(20) {
		b, whole := w.next()
		alone := w.control && i == 0 && whole && bytes.IndexByte(b, cmdShutdown) >= 0
		if w.control && !alone {
			scrub(b)
		}
		if !w.deliver(conn, b, alone) || !whole || alone {
			break // what follows could be taken for anything
		}
	}
	w.end(conn)
}

// scrub removes the byte of SHUTDOWN from data that is sent in pieces, with wrong lengths or
// after other requests, so that no part of it is read as that request, which ends the emulator.
func scrub(b []byte) {
	for i := range b {
		if b[i] == cmdShutdown {
			b[i] = 0x13
		}
	}
}

func (w *worker) next() (b []byte, whole bool) {
	if w.control {
		return w.request()
	}
	return w.command()
}

// deliver sends b in one of several ways, in one piece if it is alone on its connection, and
// usually reads the answer. It returns false if the connection cannot be used any more.
func (w *worker) deliver(conn net.Conn, b []byte, alone bool) bool {
	if w.last = append(w.last, b); len(w.last) > remembered {
		w.last = w.last[1:]
	}
	w.f.sent.Add(1)
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	fds := 0
	if isDataFD := w.control && len(b) >= 4 && binary.BigEndian.Uint32(b) == cmdSetDataFD; isDataFD && !w.chance(8) {
		fds = 1
	} else if w.chance(12) {
		fds = 1 + w.IntN(4)
	}
	var err error
	switch {
	case fds > 0:
		err = w.withDescriptors(conn, b, fds)
	case alone:
		_, err = conn.Write(b)
	case w.chance(6) && len(b) > 1: // in pieces
		at := 1 + w.IntN(len(b)-1)
		if _, err = conn.Write(b[:at]); err == nil {
			time.Sleep(time.Duration(w.IntN(3)) * time.Millisecond)
			_, err = conn.Write(b[at:])
		}
	case w.chance(12): // out of band
		err = outOfBand(conn, b)
	default:
		_, err = conn.Write(b)
	}
	if err != nil {
		return false
	}
	if w.chance(10) {
		return true // pipelined
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Duration(pick(w.generator, 1, 50, 1000)) * time.Millisecond))
	n, err := conn.Read(make([]byte, 8192))
	return n > 0 && err == nil
}

// withDescriptors sends b with n descriptors of any kind.
func (w *worker) withDescriptors(conn net.Conn, b []byte, n int) error {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		_, err := conn.Write(b)
		return err
	}
	var fds []int
	var near *os.File
	for range n {
		fd, other := w.descriptor()
		if fd < 0 {
			continue
		}
		defer unix.Close(fd)
		if fds = append(fds, fd); other != nil {
			defer other.Close()
			near = other
		}
	}
	_, _, err := u.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	if err == nil && near != nil && w.control { // it may be a data channel now
		_ = near.SetDeadline(time.Now().Add(50 * time.Millisecond))
		c, _ := w.command()
		if _, err := near.Write(c); err == nil {
			_, _ = near.Read(make([]byte, 4096)) // there may be no answer
		}
	}
	return err
}

// descriptor opens one; other is the end of a connection that stays here.
func (w *worker) descriptor() (fd int, other *os.File) {
	fd = -1
	path := pick(w.generator, os.DevNull, "/dev/zero", "/dev/full", "/dev/urandom", "/", filepath.Join(w.f.e.dir, "key"))
	switch w.IntN(8) {
	case 0:
		fd, _ = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	case 1:
		fd, _ = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	case 2:
		fd, _ = unix.Eventfd(0, unix.EFD_CLOEXEC)
	case 3:
		fd, _ = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	case 4:
		fd, _ = unix.MemfdCreate("fuzzlive", unix.MFD_CLOEXEC)
	case 5:
		fd, _ = unix.Socket(pick(w.generator, unix.AF_UNIX, unix.AF_INET), pick(w.generator, unix.SOCK_STREAM, unix.SOCK_DGRAM)|unix.SOCK_CLOEXEC, 0)
	default:
		pair, err := unix.Socketpair(unix.AF_UNIX, pick(w.generator, unix.SOCK_STREAM, unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET)|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return -1, nil
		}
		return pair[0], os.NewFile(uintptr(pair[1]), "pair")
	}
	return fd, nil
}

// outOfBand sends the first bytes of b one by one, some of them out of band.
func outOfBand(conn net.Conn, b []byte) error {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		for i := range b[:min(len(b), 64)] {
			flags := unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL
			if i%3 == 0 {
				flags |= unix.MSG_OOB
			}
			if sendErr = unix.Send(int(fd), b[i:i+1], flags); sendErr != nil {
				return
			}
		}
	})
	return errors.Join(err, sendErr)
}

// end ends a connection in one way or another.
func (w *worker) end(conn net.Conn) {
	switch {
	case w.chance(4):
		w.idle = append(w.idle, conn)
		w.leave(idlePerWorker)
		return
	case w.chance(4):
		if c, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = io.Copy(io.Discard, conn) // until it is closed there
		}
	case w.chance(4):
		if c, ok := conn.(*net.TCPConn); ok {
			_ = c.SetLinger(0)
		}
	}
	_ = conn.Close()
}

// leave closes the oldest idle connections but n.
func (w *worker) leave(n int) {
	for len(w.idle) > n {
		_ = w.idle[0].Close()
		w.idle = w.idle[1:]
	}
}

// flood opens more connections than have a place and closes them.
func (w *worker) flood() {
	var all []net.Conn
	for range floodSize {
		conn, err := w.f.e.dial(w.channel())
		if err != nil {
			break
		}
		w.f.connections.Add(1)
		if w.chance(2) {
			b, _ := w.next()
			scrub(b)
			_, _ = conn.Write(b[:w.IntN(len(b)+1)]) // half of something, or all
		}
		all = append(all, conn)
	}
	for _, c := range all {
		_ = c.Close()
	}
}
