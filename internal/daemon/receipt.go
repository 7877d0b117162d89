package daemon

import (
	"context"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receipt waits until the journal has processed what was sent to it.
type receipt struct {
	fd   int    // a datagram socket that sends nothing else
	path string // of the journal's socket
}

// openReceipt opens the socket of a receipt. The receipt is nil if that fails.
func openReceipt(path string) *receipt {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return &receipt{fd: fd, path: path}
}

// wait returns when the journal has processed all datagrams that were sent before, by any socket, or
// when ctx ends. It sends an empty datagram, which the journal ignores, and waits until the journal
// takes it from its queue: the journal processes each datagram before it takes the next one.
//
// Source: systemd v252, journald-server.c, server_process_datagram.
func (r *receipt) wait(ctx context.Context) {
	if r == nil {
		return
	}
	err := r.send()
	for (err == unix.EAGAIN || err == unix.EINTR) && pause(ctx) {
		err = r.send()
	}
	for err == nil && r.unread() && pause(ctx) {
	}
}

// send sends the empty datagram. It uses sendmsg(2), because the sandbox refuses sendto(2) with an address.
func (r *receipt) send() error {
	_, err := unix.SendmsgN(r.fd, nil, nil, &unix.SockaddrUnix{Name: r.path}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return err
}

// unread reports whether the journal has not yet taken the datagram from its queue: until then it
// counts as memory of the socket that sent it.
//
// Source: Linux, include/uapi/linux/sock_diag.h, SK_MEMINFO_WMEM_ALLOC.
func (r *receipt) unread() bool {
	const allocated = 2 // SK_MEMINFO_WMEM_ALLOC
	var memory [allocated + 1]uint32
	size := uint32(unsafe.Sizeof(memory))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(r.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&memory)), uintptr(unsafe.Pointer(&size)), 0)
	return errno == 0 && memory[allocated] > 0
}

// pause waits a moment. It returns false if ctx has ended.
func pause(ctx context.Context) bool {
	time.Sleep(time.Millisecond)
	return ctx.Err() == nil
}
