package main

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/io/cuse"
	"github.com/swtpm-go/swtpm/internal/io/data"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/threads"
)

// stopWait is how long the end of the process waits for a running command: generating
// a key may take long, and the client must get the response.
const stopWait = 60 * time.Second

// endThreadsDelay is the time from READY until threads that only the start needed have ended.
const endThreadsDelay = time.Second

// createServers creates the servers of both channels. They answer no client before serve.
func (e *emulator) createServers(ctx context.Context) (err error) {
	e.ctx, e.stop = context.WithCancelCause(ctx)
	places, memory := maxClients(), &e.process.memory
	e.servers.data, err = data.New(e.tpm, data.Options{
		Save:       saveData(e.handover),
		Changed:    e.service.listener(),
		Disconnect: e.cfg.Interface.Disconnect,
		MaxClients: places,
		Terminate:  e.cfg.Interface.Terminate,
		Quiet:      memory.tidy,
		Log:        e.log,
		End:        e.endFor,
	})
	if err != nil {
		return err
	}
	e.servers.ctrl, err = ctrl.New(e.tpm, ctrl.Options{
		Save:       saveCtrl(e.handover),
		Changed:    e.service.listener(),
		MaxClients: places,
		Wait:       e.tpm.ServeQueries,
		Engine:     e.servers.data.Post,
		DataBusy:   e.servers.data.Busy,
		DataFD:     e.servers.data.AttachSocket,
		Terminate:  e.cfg.Control.Terminate,
		Quiet:      memory.tidy,
		Log:        e.log,
		End:        e.endFor,
		Postpone:   e.postpone(),
		Postponed:  e.tpm.TakeInit,
	})
	return err
}

// serve answers clients until the process is to end: because of a signal or a request, because
// its clients disconnected, or because the state belongs to another process now. Only the last
// one is an error.
func (e *emulator) serve() error {
	resumeClients(e.handover, e.servers)
	if err := e.channels.attach(e.servers); err != nil {
		return err
	}
	e.service.watch(e.status, e.alive)
	limitHeap()
	program.MoveWatches(e.servers.ctrl)
	e.process.memory.trim = createThreads(e.needsHelpers())
	e.servers.ctrl.After(endThreadsDelay, e.process.memory.endThreads)
	e.source.previous.ready(e.handover)
	e.service.ready(e.servers.ctrl) // before the servers run: then this goroutine needs no thread any more
	defer e.observers.meter.publish(e.channels.metrics, e.tpm, e.servers, &e.process)()
	if e.source.hangups != nil {
		e.reloadOnHangup()
	}
	go serveLoop(e.servers.data.Run)
	go serveLoop(e.servers.ctrl.Run)
	if e.channels.cuse != nil {
		go e.serveDevice()
	}
	<-e.ctx.Done()
	e.stopServing()
	return e.lostStorage(context.Cause(e.ctx))
}

// stopServing ends the servers. A running command is finished, and its client gets the
// response.
func (e *emulator) stopServing() {
	e.tpm.Ending()
	e.service.stopping(context.Cause(e.ctx))
	e.channels.close()
	if e.channels.cuse != nil {
		e.channels.cuse.Close(stopWait)
	}
	e.servers.ctrl.Close(stopWait)
	program.MoveWatches(nil)
	e.servers.data.Close(stopWait)
}

// serveDevice answers the clients of a device of CUSE.
func (e *emulator) serveDevice() {
	e.channels.cuse.Serve(e.tpm, cuse.Options{
		Engine: e.servers.data.Post,
		Log:    e.log,
		End:    e.endFor,
	})
}

// needsHelpers reports whether goroutines besides the servers need threads; see
// createThreads.
func (e *emulator) needsHelpers() bool {
	return e.channels.cuse != nil || e.cfg.Pcap.File != "" || e.cfg.Pcap.FD >= 0
}

// status returns a one-line summary.
func (e *emulator) status() string {
	line := status(e.tpm.Version(), e.tpm.Status(),
		dataChannel(e.cfg.Interface, e.servers.data.Clients()), channelStatus("control", e.cfg.Control.Listen, e.servers.ctrl.Clients()))
	return line + "; " + e.process.confined.String()
}

// alive reports whether the TPM works, for the watchdog. It also ends threads that the runtime has
// created in addition since the last check.
func (e *emulator) alive() bool {
	e.process.memory.endThreads()
	return e.tpm.Alive()
}

// endFor ends the process because of reason, which a server or the TPM reports. Unless a client
// caused the end, the first reason is logged as an error; the others are not, because each waiting
// client reports that the state was lost.
func (e *emulator) endFor(reason error) {
	if e.ctx.Err() == nil && reason != ctrl.ErrShutdown && reason != conn.ErrDisconnected {
		e.log.Errorf("ending: %v", doctor.AppendRemedy(reason, e.source.remedies().State(reason)))
	}
	e.stop(reason)
}

// postpone returns ctrl.Options.Postpone, nil without a handover. Landlock's rules are about
// the directories that exist when the process starts: only a new process can reach a new
// directory.
func (e *emulator) postpone() func(err error) bool {
	if e.handover == nil {
		return nil
	}
	return func(err error) bool {
		if !errors.Is(err, emul.ErrReplaced) {
			return false
		}
		e.stop(err)
		return true
	}
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

// serveLoop runs the loop of a server on a thread that was used for the start.
func serveLoop(loop func()) {
	threads.GiveBack()
	loop()
}
