// Package daemon provides what a service needs besides its task: the log, the pid file, the
// notification of systemd and of the launcher of --daemon, and the handling of SIGHUP. It
// knows no option and no configuration file.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/program"
)

// Notifier notifies systemd about this process, if $NOTIFY_SOCKET is set.
//
// Compat: C-277: $NOTIFY_SOCKET stays set, as swtpm leaves it.
type Notifier struct {
	conn     *net.UnixConn // nil without a service manager
	launcher *launcher     // nil in the foreground
	err      error         // why systemd cannot be notified; nil without $NOTIFY_SOCKET
}

// maxNotify is the length in bytes of the longest path of a socket.
const maxNotify = 107

// Unreachable returns why systemd cannot be notified although it asks for it.
func (n *Notifier) Unreachable() error { return n.err }

// OpenNotifier connects to systemd. Call it before the root directory is changed, because
// systemd's socket is in the old one.
func OpenNotifier() *Notifier {
	n := &Notifier{}
	if path := os.Getenv("NOTIFY_SOCKET"); len(path) > maxNotify {
		n.err = fmt.Errorf("NOTIFY_SOCKET: %q is too long for a Unix socket: %d bytes, the limit is %d", path, len(path), maxNotify)
	}
	if path := os.Getenv("NOTIFY_SOCKET"); strings.HasPrefix(path, "/") || strings.HasPrefix(path, "@") {
		n.conn, _ = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
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
func (n *Notifier) Listens() bool { return n.conn != nil }

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
func (n *Notifier) notify(lines ...string) {
	if n.conn != nil {
		_, _ = n.conn.Write([]byte(strings.Join(lines, "\n")))
	}
}

// StoreFD asks systemd to store fd for the next process of the service, under a name that may
// occur once; see FileDescriptorStoreMax=. The caller may close fd afterwards. systemd removes
// a connection whose other end is closed.
func (n *Notifier) StoreFD(fd int, name string) error {
	if n.conn == nil {
		return errors.New("NOTIFY_SOCKET is not set or not reachable")
	}
	raw, err := n.conn.SyscallConn()
	if err != nil {
		return err
	}
	waited := raw.Write(func(s uintptr) bool {
		err = unix.Sendmsg(int(s), []byte("FDSTORE=1\nFDNAME="+name), unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	return errors.Join(err, waited)
}

// RemoveFD asks systemd to close the descriptors that it stores under a name.
func (n *Notifier) RemoveFD(name string) { n.notify("FDSTOREREMOVE=1", "FDNAME="+name) }

// HasFDStore reports whether systemd stores descriptors of this service: $FDSTORE, which
// systemd sets since release 254, and our unit for older ones.
func (n *Notifier) HasFDStore() bool {
	v, err := strconv.Atoi(os.Getenv("FDSTORE"))
	return n.conn != nil && err == nil && v > 0
}

// settle is the minimum time between two status lines, because thousands of clients may
// connect and disconnect.
const settle = time.Second

// Service keeps the status of a service in systemd up to date, from Ready to Stopping. A
// nil Service does nothing; it is for a process that systemd did not start.
type Service struct {
	systemd *Notifier
	status  func() string
	ping    func()
	every   time.Duration // between two pings; 0 if systemd does not watch
	wake    chan struct{}
}

// Service returns the Service of this process, nil if systemd did not ask for
// notifications. status returns a one-line summary and may be called at any time. ping
// returns once the service has proved that it works; it is called only if WatchdogSec= is
// set. Nothing else wakes up the process.
func (n *Notifier) Service(status func() string, ping func()) *Service {
	if n.conn == nil {
		return nil
	}
	s := &Service{systemd: n, status: status, ping: ping, wake: make(chan struct{}, 1)}
	if d, err := daemon.SdWatchdogEnabled(false); err == nil {
		s.every = d / 2
	}
	return s
}

// Changed reports that status may return another line. It does not wait.
func (s *Service) Changed() {
	if s == nil {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default: // a notification is pending
	}
}

// Run sends new status lines and watchdog notifications to systemd until ctx ends. Call it
// after Ready.
func (s *Service) Run(ctx context.Context) {
	if s == nil {
		return
	}
	var tick <-chan time.Time
	pause := settle
	if s.every > 0 {
		t := time.NewTicker(s.every)
		defer t.Stop()
		tick, pause = t.C, min(pause, s.every/4)
	}
	sent := ""
	for {
		var news []string
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		case <-tick:
			s.ping()
			news = append(news, daemon.SdNotifyWatchdog)
		}
		if line := statusLine(s.status()); line != sent {
			sent = line
			news = append(news, line)
		}
		if len(news) > 0 && ctx.Err() == nil {
			s.systemd.notify(news...)
		}
	}
}

// Stopping notifies systemd that the service is about to end, and why.
func (s *Service) Stopping(why string) {
	if s != nil {
		s.systemd.notify(daemon.SdNotifyStopping, statusLine("ending: "+why))
	}
}

// statusLine returns the message that sets the status in `systemctl status`.
func statusLine(s string) string { return "STATUS=" + program.PrintableLine(s) }
