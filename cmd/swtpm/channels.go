package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/cuse"
	"github.com/swtpm-go/swtpm/internal/io/listen"
)

// channels are the sockets and devices through which clients reach the TPM: for each
// channel a listener, one connection that was passed to this process, or nothing.
type channels struct {
	data, ctrl     *listen.Listener
	metrics        *listen.Listener
	dataFD, ctrlFD int          // -1 for none
	cuse           *cuse.Device // a device that is both channels; nil for none
}

// open opens all channels except a device, which is already open. Sockets listen from now
// on, so that waiting clients can connect. If systemd has stored the sockets of the previous
// process, open uses them. It returns the handover, nil if nothing is saved.
func (c *channels) open(cfg *config.Config, systemd *daemon.Notifier, log *daemon.Log) (h *handover.Handover, err error) {
	passed, err := listen.TakePassed()
	if err != nil {
		return nil, err
	}
	h = openHandover(cfg, systemd, passed, log)
	defer h.Close()
	defer passed.Close(cfg.Descriptors)
	if c.ctrl, c.ctrlFD, err = openChannel("ctrl", cfg.Control.Listen, passed, h); err != nil {
		return nil, doctor.AppendRemedy(fmt.Errorf("control channel: %w", err), doctor.Socket(cfg.Control.Listen, err))
	}
	if c.metrics, err = openMetrics(cfg.Metrics.Listen, passed); err != nil {
		return nil, doctor.AppendRemedy(fmt.Errorf("metrics: %w", err), doctor.Socket(cfg.Metrics.Listen, err))
	}
	if c.dataFD < 0 {
		if c.data, c.dataFD, err = openChannel("data", cfg.Interface.Server, passed, h); err != nil {
			return nil, doctor.AppendRemedy(fmt.Errorf("data channel: %w", err), doctor.Socket(cfg.Interface.Server, err))
		}
	}
	c.refuseDescriptors()
	return h, nil
}

// refuseDescriptors makes the kernel refuse descriptors for all channels except the control channel,
// which has SET_DATAFD.
func (c *channels) refuseDescriptors() {
	if c.dataFD >= 0 {
		listen.RefuseDescriptors(c.dataFD)
	}
	for _, l := range []*listen.Listener{c.data, c.metrics} {
		if l != nil {
			listen.RefuseDescriptors(l.Descriptor())
		}
	}
}

// openChannel opens a channel. It returns a listener, or a connected descriptor, or nil and
// -1 if e.Kind is None.
func openChannel(channel string, e config.Endpoint, passed *listen.Passed, h *handover.Handover) (*listen.Listener, int, error) {
	switch e.Kind {
	case config.None:
		return nil, -1, nil
	case config.ConnFD:
		if _, err := unix.FcntlInt(uintptr(e.FD), unix.F_GETFD, 0); err != nil {
			return nil, -1, fmt.Errorf("descriptor %d was not passed to this program: %w; let the program that starts this one pass it, or name a path or a port", e.FD, err)
		}
		unix.CloseOnExec(e.FD)
		return nil, e.FD, nil
	case config.Systemd:
		l, err := passed.Open(e.Name)
		return l, -1, err
	case config.Unix:
		if l, err := passed.OpenAt(e.Path); l != nil || err != nil {
			return l, -1, err
		}
	}
	l, err := openListener(channel, e, h)
	return l, -1, err
}

// openMetrics opens the socket that [metrics] names. It returns nil if there is none.
func openMetrics(e config.Endpoint, passed *listen.Passed) (*listen.Listener, error) {
	switch e.Kind {
	case config.Unix:
		if l, err := passed.OpenAt(e.Path); l != nil || err != nil {
			return l, err
		}
		return listen.Open(e)
	case config.Systemd:
		return passed.Open(e.Name)
	}
	return nil, nil
}

// logPorts logs the ports that the kernel has chosen, for port 0.
func (c *channels) logPorts(cfg *config.Config, log *daemon.Log) {
	for _, channel := range []struct {
		name   string
		asked  config.Endpoint
		opened *listen.Listener
	}{{"control", cfg.Control.Listen, c.ctrl}, {"data", cfg.Interface.Server, c.data}} {
		if channel.asked.Kind == config.TCP && channel.asked.Port == 0 && channel.opened != nil {
			log.Infof("%s channel: listening on %s", channel.name, channel.opened)
		}
	}
}

// attach hands the sockets and connections to the servers.
func (c *channels) attach(s servers) error {
	if c.data != nil {
		s.data.Listen(c.data)
	}
	if c.dataFD >= 0 {
		if err := s.data.Attach(c.dataFD); err != nil {
			return err
		}
	}
	if c.ctrl != nil {
		s.ctrl.Listen(c.ctrl)
	}
	if c.ctrlFD >= 0 {
		if err := s.ctrl.Attach(c.ctrlFD); err != nil {
			return fmt.Errorf("control channel: descriptor %d: %w", c.ctrlFD, err)
		}
	}
	return nil
}

// close closes the listeners and removes the sockets that this process created.
func (c *channels) close() {
	for _, l := range []*listen.Listener{c.ctrl, c.data, c.metrics} {
		if l != nil {
			_ = l.Close()
		}
	}
	c.ctrl, c.data, c.metrics = nil, nil, nil
}
