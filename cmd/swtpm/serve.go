package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/io/cuse"
	"github.com/swtpm-go/swtpm/internal/io/data"
	"github.com/swtpm-go/swtpm/internal/io/listen"
)

// stopWait is how long the end of the process waits for a command that runs: a
// key generation may take its time, and its client is to have the response.
const stopWait = 60 * time.Second

// ends are the places where clients come from: for each channel a listener, or
// one connection that was passed to us, or nothing.
type ends struct {
	data, ctrl     *listen.Listener
	metrics        *listen.Listener
	dataFD, ctrlFD int          // -1 if none
	cuse           *cuse.Device // a device that is both channels; nil if none is
}

// openEnds opens all of them but the device, which is open already. Sockets listen from here
// on, so that clients that wait for them can connect; they are answered once serve
// runs. With a session that systemd keeps, they may be those of the previous process.
func openEnds(cfg *config.Config, dev device, systemd *daemon.Notifier, log *daemon.Log) (e *ends, s *handover.Session, err error) {
	passed, err := listen.TakePassed()
	if err != nil {
		return nil, nil, err
	}
	s = openSession(cfg, systemd, passed, log)
	defer s.Close()
	defer passed.Close(cfg.Descriptors())
	e = &ends{dataFD: -1, ctrlFD: -1, cuse: dev.cuse}
	if e.ctrl, e.ctrlFD, err = openEnd("ctrl", cfg.Control.Listen, passed, s); err != nil {
		return nil, nil, fmt.Errorf("control channel: %w", err)
	}
	if e.metrics, err = openMetrics(cfg.Metrics.Listen, passed); err != nil {
		e.Close()
		return nil, nil, fmt.Errorf("metrics: %w", err)
	}
	if dev.fd >= 0 {
		e.dataFD = dev.fd
		return e, s, nil
	}
	if e.data, e.dataFD, err = openEnd("data", cfg.Interface.Server, passed, s); err != nil {
		e.Close()
		return nil, nil, fmt.Errorf("data channel: %w", err)
	}
	return e, s, nil
}

// logPorts logs the ports that the kernel has chosen, for port 0.
func (e *ends) logPorts(cfg *config.Config, log *daemon.Log) {
	for _, c := range []struct {
		name   string
		asked  config.Endpoint
		opened *listen.Listener
	}{{"control", cfg.Control.Listen, e.ctrl}, {"data", cfg.Interface.Server, e.data}} {
		if c.asked.Kind == config.TCP && c.asked.Port == 0 && c.opened != nil {
			log.Infof("%s channel: listening on %s", c.name, c.opened)
		}
	}
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

func openEnd(channel string, e config.Endpoint, passed *listen.Passed, s *handover.Session) (*listen.Listener, int, error) {
	switch e.Kind {
	case config.None:
		return nil, -1, nil
	case config.ConnFD:
		if _, err := unix.FcntlInt(uintptr(e.FD), unix.F_GETFD, 0); err != nil {
			return nil, -1, fmt.Errorf("descriptor %d was not passed to this program: %w; let the program that starts this one pass it, or name a path or a port", e.FD, err)
		}
		unix.CloseOnExec(e.FD)
		return nil, e.FD, nil
	}
	if e.Kind == config.Systemd {
		l, err := passed.Open(e.Name)
		return l, -1, err
	}
	if e.Kind == config.Unix {
		if l, err := passed.OpenAt(e.Path); l != nil || err != nil {
			return l, -1, err
		}
	}
	l, err := channelEnd(channel, e, s)
	return l, -1, err
}

// Close closes the listeners and removes the sockets that we made.
func (e *ends) Close() {
	for _, l := range []*listen.Listener{e.ctrl, e.data, e.metrics} {
		if l != nil {
			_ = l.Close()
		}
	}
	e.ctrl, e.data, e.metrics = nil, nil, nil
}

// joint is a TPM, its ends, and the servers between them.
type joint struct {
	cfg     *config.Config
	ends    *ends
	session *handover.Session
	tpm     *emul.TPM
	service *service
	data    *data.Server
	ctrl    *ctrl.Server

	ctx context.Context // ends when the process is to end
	end context.CancelCauseFunc
}

// join makes the servers of a TPM. They answer no client before serve. The caller ends
// the joint.
func join(ctx context.Context, cfg *config.Config, e *ends, session *handover.Session, t *emul.TPM, s *service) (j *joint, err error) {
	j = &joint{cfg: cfg, ends: e, session: session, tpm: t, service: s}
	j.ctx, j.end = context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			j.end(err)
		}
	}()
	lost := func(terminate bool) func() {
		if !terminate {
			return nil
		}
		return func() { j.end(errors.New("the client disconnected")) }
	}
	places, memory := maxClients(), &collector{}
	j.data, err = data.New(t, data.Options{
		Keep:       saveData(session),
		Changed:    s.changed,
		Disconnect: cfg.Interface.Disconnect,
		MaxClients: places,
		Trace:      s.log.Dump,
		Note:       s.log.Infof,
		Lost:       lost(cfg.Interface.Terminate),
		Quiet:      memory.tidy,
		Fail:       j.fail,
	})
	if err != nil {
		return j, err
	}
	j.ctrl, err = ctrl.New(t, ctrl.Options{
		Keep:       saveCtrl(session),
		Changed:    s.changed,
		MaxClients: places,
		Wait:       t.ServeQueries,
		Engine:     j.data.Post,
		DataBusy:   j.data.Busy,
		DataFD:     j.data.AttachSocket,
		Trace:      s.log.Dump,
		Note:       s.log.Infof,
		Error:      s.log.Errorf,
		Lost:       lost(cfg.Control.Terminate),
		Quiet:      memory.tidy,
		Shutdown:   j.shutdown,
		Fail:       j.fail,
		Postpone:   j.postpone(),
		Again:      t.TakeInit,
	})
	if err != nil {
		return j, err
	}
	s.serve(j.status, t.Ping)
	return j, nil
}

// status returns a one-line summary.
func (j *joint) status() string {
	line := status(j.tpm.Version(), j.tpm.Status(),
		dataChannel(j.cfg.Interface, j.data.Clients()), channel("control", j.cfg.Control.Listen, j.ctrl.Clients()))
	return line + "; " + j.service.confined.String()
}

func (j *joint) fail(err error) {
	j.service.log.Errorf("%v; ending", err)
	j.end(err)
}

func (j *joint) shutdown() { j.end(errors.New("a client asked for it")) }

// serve answers clients until the process is to end: by signal, by request, because
// its clients disconnected, or because the state belongs to another process now. All of
// these are orderly ends.
func (j *joint) serve(r *reloader, m *meter) error {
	e, log := j.ends, j.service.log
	resumeClients(j.session, j.data, j.ctrl)
	if err := e.attach(j.data, j.ctrl); err != nil {
		return err
	}
	limitHeap()
	createThreads(r != nil || m != nil || j.service.tell != nil || e.cuse != nil || j.cfg.Pcap.File != "" || j.cfg.Pcap.FD >= 0)
	j.service.ready(j.ctx) // before the servers run: then this goroutine needs no thread any more
	go j.data.Run()
	go j.ctrl.Run()
	if e.cuse != nil {
		go e.cuse.Serve(j.tpm, cuse.Options{
			Engine:   j.data.Post,
			Trace:    log.Dump,
			Note:     log.Infof,
			Error:    log.Errorf,
			Shutdown: j.shutdown,
			Fail:     j.fail,
		})
	}
	defer m.tell(j.ctx, e.metrics, j.tpm, j.data, j.ctrl)()
	go r.run(j.ctx, func() { j.end(errors.New("the terminal was closed")) })
	<-j.ctx.Done()
	j.tpm.Ending()
	j.service.stopping(context.Cause(j.ctx))
	e.Close()
	if e.cuse != nil {
		e.cuse.Close(stopWait)
	}
	j.ctrl.Close(stopWait)
	j.data.Close(stopWait)
	return nil
}

// attach hands the ends to the servers.
func (e *ends) attach(d *data.Server, c *ctrl.Server) error {
	if e.data != nil {
		d.Listen(e.data)
	}
	if e.dataFD >= 0 {
		if err := d.Attach(e.dataFD); err != nil {
			return err
		}
	}
	if e.ctrl != nil {
		c.Listen(e.ctrl)
	}
	if e.ctrlFD >= 0 {
		if err := c.Attach(e.ctrlFD); err != nil {
			return fmt.Errorf("control channel: descriptor %d: %w", e.ctrlFD, err)
		}
	}
	return nil
}

// maxClients returns the largest number of clients of one channel. It is small, because a
// TPM usually has one user, and leaves enough descriptors for the state.
func maxClients() int {
	const most, others = 16, 32 // others: log, state, listeners, libraries
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil || r.Cur > 1024 {
		return most
	}
	return max(1, min(most, (int(r.Cur)-others)/2))
}
