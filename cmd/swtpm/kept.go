package main

import (
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/io/data"
	"github.com/swtpm-go/swtpm/internal/io/listen"
)

// openSession takes over the descriptors of the previous process that systemd has kept, and
// asks systemd to keep those to come. It returns nil if nothing is kept; the service works
// without.
func openSession(cfg *config.Config, systemd *daemon.Notifier, passed *listen.Passed, log *daemon.Log) *handover.Session {
	var fds []handover.FD
	for _, f := range passed.Take(handover.Prefix) {
		fds = append(fds, handover.FD(f))
	}
	if !keeps(cfg, systemd) {
		for _, f := range fds {
			systemd.Drop(f.Name)
			_ = unix.Close(f.FD)
		}
		return nil
	}
	s, why, err := handover.Open(systemd, fds)
	if why != nil {
		log.Warnf("cannot use the session of the previous process: %v", why)
	}
	if err != nil {
		log.Warnf("a restart will lose the clients and the volatile state: %v", err)
		return nil
	}
	return s
}

// keeps reports whether a session is wanted. A connection that was passed to this process
// belongs to the program that started it, and ends with it; so does a device.
func keeps(cfg *config.Config, systemd *daemon.Notifier) bool {
	if cfg.Printing() != "" || cfg.Interface.Type != "socket" || cfg.Control.Listen.Kind == config.ConnFD || cfg.Interface.Server.Kind == config.ConnFD {
		return false
	}
	switch cfg.Service.KeepSession {
	case "no":
		return false
	case "yes":
		return true
	}
	return systemd.KeepsDescriptors()
}

// keeper is s for emul.
func keeper(s *handover.Session) emul.Keeper {
	if s == nil {
		return nil
	}
	return s
}

// channelEnd returns the listener of a channel that this program makes itself: the one of
// the previous process, or a new one, which systemd is asked to keep.
func channelEnd(channel string, e config.Endpoint, s *handover.Session) (*listen.Listener, error) {
	if s == nil || e.Kind != config.Unix && e.Kind != config.TCP {
		return listen.Open(e)
	}
	if fd, made := s.Listener(channel); fd >= 0 {
		if l, err := listen.Resume(e, fd, made); err == nil {
			l.Leave()
			return l, nil
		}
		s.DropListener(channel)
	}
	l, err := listen.Open(e)
	if err != nil {
		return nil, err
	}
	fd, made := l.Socket()
	if s.KeepListener(channel, fd, made) == nil {
		l.Leave()
	}
	return l, nil
}

// The kinds of clients that are kept.
const (
	ctrlClient   = "ctrl"
	dataClient   = "data"   // of the data socket
	dataFDClient = "datafd" // of SET_DATAFD
)

// keepData is data.Options.Keep, nil if nothing is kept.
func keepData(s *handover.Session) func(fd int, attached bool) data.Kept {
	if s == nil {
		return nil
	}
	return func(fd int, attached bool) data.Kept {
		kind := dataClient
		if attached {
			kind = dataFDClient
		}
		c := s.Keep(kind, fd)
		return data.Kept{Record: c.Record, Forget: c.Forget}
	}
}

// keepCtrl is ctrl.Options.Keep, nil if nothing is kept.
func keepCtrl(s *handover.Session) func(fd int) ctrl.Kept {
	if s == nil {
		return nil
	}
	return func(fd int) ctrl.Kept {
		c := s.Keep(ctrlClient, fd)
		return ctrl.Kept{Record: c.Record, Forget: c.Forget}
	}
}

// resumeClients serves the clients of the previous process.
func resumeClients(s *handover.Session, d *data.Server, c *ctrl.Server) {
	for _, k := range s.Clients() {
		switch k.Kind {
		case ctrlClient:
			c.Resume(k.FD, ctrl.Kept{Record: k.Record, Forget: k.Forget})
		case dataClient, dataFDClient:
			d.Resume(k.FD, data.Kept{Record: k.Record, Forget: k.Forget}, k.Kind == dataFDClient)
		default:
			k.Forget()
			_ = unix.Close(k.FD)
		}
	}
}
