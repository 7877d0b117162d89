// Package daemon provides what a service needs besides its task: the log, the pid file, the
// notification of systemd and of the launcher of --daemon, and the handling of SIGHUP. It
// knows no option and no configuration file.
package daemon

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Notifier notifies systemd about this process, if $NOTIFY_SOCKET is set.
//
// Compat: C-277: $NOTIFY_SOCKET stays set, as swtpm leaves it.
type Notifier struct {
	fd       int       // connected to systemd; -1 without a service manager
	launcher *launcher // nil in the foreground
	err      error     // why systemd cannot be notified; nil without $NOTIFY_SOCKET
}

// maxNotify is the length in bytes of the longest path of a socket.
const maxNotify = 107

// notifyWait is how long a message waits for systemd, which does not read while it loads its
// units again. Status lines and notifications of the watchdog do not wait: they are sent later.
const notifyWait = 30 * time.Second

// errNoNotify is the error of a message without a service manager.
var errNoNotify = errors.New("NOTIFY_SOCKET is not set or not reachable")

// Unreachable returns why systemd cannot be notified although it asks for it.
func (n *Notifier) Unreachable() error { return n.err }

// OpenNotifier connects to systemd. Call it before the root directory is changed, because
// systemd's socket is in the old one. The socket is not one of package net, whose poller costs
// memory.
func OpenNotifier() *Notifier {
	n := &Notifier{fd: -1}
	path := os.Getenv("NOTIFY_SOCKET")
	switch {
	case len(path) > maxNotify:
		n.err = fmt.Errorf("NOTIFY_SOCKET: %q is too long for a Unix socket: %d bytes, the limit is %d", path, len(path), maxNotify)
	case strings.HasPrefix(path, "/") || strings.HasPrefix(path, "@"):
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return n
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			_ = unix.Close(fd)
			return n
		}
		n.fd = fd
	}
	return n
}

// Ready reports that the service is up, to the launcher of a daemon, which exits, and to
// systemd, together with the status. It redirects a daemon's stdout and stderr to
// /dev/null; stdin is left unchanged.
func (n *Notifier) Ready(status string) {
	if n.launcher != nil {
		n.launcher.release()
		n.launcher = nil
	}
	n.notify(daemon.SdNotifyReady, statusLine(status))
}

// Status sends a status line to systemd before Ready.
func (n *Notifier) Status(status string) { n.notify(statusLine(status)) }

// Listens reports whether a service manager can be notified.
func (n *Notifier) Listens() bool { return n.fd >= 0 }

// Reloading notifies systemd that the service is about to read its settings again;
// Reloaded notifies it that this is done, with or without an error.
//
// Source: systemd, sd_notify(3): since v253, Type=notify-reload asks for the time.
func (n *Notifier) Reloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	n.notify(daemon.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
}

// Reloaded ends what Reloading began.
func (n *Notifier) Reloaded() { n.notify(daemon.SdNotifyReady) }

// notify sends one message to systemd. It ignores errors, because they are no reason to
// stop a working service.
func (n *Notifier) notify(lines ...string) { _ = n.send(strings.Join(lines, "\n"), nil, notifyWait) }

// try sends one message without waiting. It returns false if systemd does not read.
func (n *Notifier) try(lines ...string) bool {
	return n.send(strings.Join(lines, "\n"), nil, 0) != unix.EAGAIN
}

// send sends one message with descriptors to systemd. It waits up to d while systemd does not
// read; then the error is unix.EAGAIN. It waits in a system call, because Go's poller or a timer of
// Go would need a thread.
func (n *Notifier) send(message string, rights []byte, d time.Duration) error {
	if n.fd < 0 {
		return errNoNotify
	}
	for end := time.Now().Add(d); ; {
		err := unix.Sendmsg(n.fd, []byte(message), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		left := time.Until(end)
		switch {
		case err == unix.EINTR:
		case err != unix.EAGAIN || left <= 0:
			return err
		default:
			p := []unix.PollFd{{Fd: int32(n.fd), Events: unix.POLLOUT}}
			_, _ = unix.Poll(p, int(left.Milliseconds())+1)
		}
	}
}

// StoreFD asks systemd to store fd for the next process of the service, under a name that may
// occur once; see FileDescriptorStoreMax=. The caller may close fd afterwards. systemd removes
// a connection whose other end is closed.
func (n *Notifier) StoreFD(fd int, name string) error {
	return n.send("FDSTORE=1\nFDNAME="+name, unix.UnixRights(fd), notifyWait)
}

// RemoveFD asks systemd to close the descriptors that it stores under a name.
func (n *Notifier) RemoveFD(name string) { n.notify("FDSTOREREMOVE=1", "FDNAME="+name) }

// HasFDStore reports whether systemd stores descriptors of this service: $FDSTORE, which
// systemd sets since release 254, and our unit for older ones.
func (n *Notifier) HasFDStore() bool {
	v, err := strconv.Atoi(os.Getenv("FDSTORE"))
	return n.Listens() && err == nil && v > 0
}
