package main

import (
	"context"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/io/data"
	"github.com/swtpm-go/swtpm/internal/ledger/recorder"
	"github.com/swtpm-go/swtpm/internal/nv/remote"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// source is where a Config comes from: a profile, or a classic command line, which has
// neither path nor instance.
type source struct {
	path     string // of the profile, absolute
	instance string
	host     hostNotes       // what the settings of the host have changed
	hangups  *daemon.Hangups // signals to read the profile again; nil for a command line
	previous *previous       // the previous process of the service
}

// remedies returns whether remedies name options of the command line or keys of the profile.
func (s source) remedies() doctor.Remedies {
	if s.path == "" {
		return doctor.CommandLine
	}
	return doctor.Profile
}

// emulator is one TPM from the start of its process to the end. The steps of live (main.go) set the
// fields; the fields of later steps are zero.
type emulator struct {
	cfg    *config.Config
	source source
	lifetime

	service   service // reports to systemd and the journal
	log       *daemon.Log
	channels  *channels
	handover  *handover.Handover // saves connections and state for the next process; nil if nothing is saved, see wantsHandover
	resources resources
	observers observers
	tpm       *emul.TPM
	servers   servers
	process   process
}

// resources are what the TPM uses. They are opened before the process is confined.
type resources struct {
	keys       seal.Keys
	algProfile string               // algorithm profile of a new TPM
	traffic    emul.TrafficRecorder // records commands and responses; nil for none
	link       *remote.Link         // to the broker of a cluster store; nil for another state
}

// observers watch what the TPM does.
type observers struct {
	ledger *recorder.Recorder // the boot ledger; nil for none
	meter  *meter             // for the metrics; nil for none
}

// servers answer the clients of the two channels.
type servers struct {
	data *data.Server
	ctrl *ctrl.Server
}

// process is what the emulator changes and uses of its own process.
type process struct {
	removePID  func() // removes the pid file; nil if it is not written
	confined   sandbox.Active
	memory     collector
	background background
}

// lifetime is how the process ends.
type lifetime struct {
	ctx      context.Context // ends when the process must end
	stop     context.CancelCauseFunc
	cleanups []func() // of the steps so far
}

// onEnd makes end call f. end calls the functions in reverse order.
func (l *lifetime) onEnd(f func()) { l.cleanups = append(l.cleanups, f) }

// end undoes the steps in reverse order, logs err and returns it with its exit code.
func (e *emulator) end(err error) error {
	if e.stop != nil {
		e.stop(nil)
	}
	for i := len(e.cleanups) - 1; i >= 0; i-- {
		e.cleanups[i]()
	}
	err = exitCode(e.cfg.Interface.Type, err)
	if e.log != nil {
		logError(e.cfg.Log, e.log, err)
		if err != nil {
			e.log.CloseFailed()
		} else {
			e.log.Close()
		}
	}
	return err
}
