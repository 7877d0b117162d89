package main

import (
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/io/listen"
)

// openHandover takes over the descriptors of the previous process that systemd has stored, and
// lets this process store its own. It returns nil if nothing is saved.
func openHandover(cfg *config.Config, systemd *daemon.Notifier, passed *listen.Passed, log *daemon.Log) *handover.Handover {
	var fds []handover.FD
	for _, f := range passed.Take(handover.Prefix) {
		fds = append(fds, handover.FD(f))
	}
	if !wantsHandover(cfg, systemd) {
		for _, f := range fds {
			systemd.RemoveFD(f.Name)
			_ = unix.Close(f.FD)
		}
		return nil
	}
	h, unusable, err := handover.Open(systemd, fds)
	if unusable != nil {
		log.Warnf("cannot use what the previous process has saved: %v", unusable)
	}
	if err != nil {
		log.Warnf("a restart will lose the clients and the volatile state: %v", err)
		return nil
	}
	return h
}

// wantsHandover reports whether anything is saved. A connection that was passed to this process
// belongs to the program that started it, and ends with it; so does a device.
func wantsHandover(cfg *config.Config, systemd *daemon.Notifier) bool {
	if cfg.Printing() != "" || cfg.Interface.Type != config.Socket || cfg.Control.Listen.Kind == config.ConnFD || cfg.Interface.Server.Kind == config.ConnFD {
		return false
	}
	switch cfg.Service.KeepSession {
	case config.SessionNo:
		return false
	case config.SessionYes:
		return true
	}
	return systemd.HasFDStore()
}

// handoverTo returns h for emul.Options: a nil interface if h is nil.
func handoverTo(h *handover.Handover) emul.Handover {
	if h == nil {
		return nil
	}
	return h
}

// openListener returns the listener of a channel that this program opens itself: the one of
// the previous process, or a new one, which systemd is asked to store.
func openListener(channel string, e config.Endpoint, h *handover.Handover) (*listen.Listener, error) {
	if h == nil || e.Kind != config.Unix && e.Kind != config.TCP {
		return listen.Open(e)
	}
	if fd, id := h.Listener(channel); fd >= 0 {
		if l, err := listen.Resume(e, fd, id); err == nil {
			l.Share()
			return l, nil
		}
		h.RemoveListener(channel)
	}
	l, err := listen.Open(e)
	if err != nil {
		return nil, err
	}
	fd, id := l.Socket()
	if h.SaveListener(channel, fd, id) == nil {
		l.Share()
	}
	return l, nil
}

// The kinds of clients that are saved.
const (
	ctrlClient   = "ctrl"
	dataClient   = "data"   // of the data socket
	dataFDClient = "datafd" // of SET_DATAFD
)

// saveData returns data.Options.Save, nil if h is nil.
func saveData(h *handover.Handover) func(fd int, attached bool) conn.Handover {
	if h == nil {
		return nil
	}
	return func(fd int, attached bool) conn.Handover {
		kind := dataClient
		if attached {
			kind = dataFDClient
		}
		c := h.SaveClient(kind, fd)
		return conn.Handover{Record: c.Record, Forget: c.Forget}
	}
}

// saveCtrl returns ctrl.Options.Save, nil if h is nil.
func saveCtrl(h *handover.Handover) func(fd int) conn.Handover {
	if h == nil {
		return nil
	}
	return func(fd int) conn.Handover {
		c := h.SaveClient(ctrlClient, fd)
		return conn.Handover{Record: c.Record, Forget: c.Forget}
	}
}

// resumeClients serves the clients of the previous process.
func resumeClients(h *handover.Handover, s servers) {
	for _, client := range h.Clients() {
		switch client.Kind {
		case ctrlClient:
			s.ctrl.Resume(client.FD, conn.Handover{Record: client.Record, Forget: client.Forget})
		case dataClient, dataFDClient:
			s.data.Resume(client.FD, conn.Handover{Record: client.Record, Forget: client.Forget}, client.Kind == dataFDClient)
		default:
			client.Forget()
			_ = unix.Close(client.FD)
		}
	}
}
