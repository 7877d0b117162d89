package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The events of a TPM in the journal; swtpm(8) lists them.
var (
	eventReady    = daemon.EventKind{ID: "ef695ae07abf424b83a4be3f86e0b14c", Name: "ready"}
	eventStopping = daemon.EventKind{ID: "f14b9f2481f9400cb9dbffc4ed319c69", Name: "stopping"}

	eventReloaded     = daemon.EventKind{ID: "1a91c40e01e54c4c98e499b661f55638", Name: "reloaded"}
	eventReloadFailed = daemon.EventKind{ID: "b95da29b78c6454aad6f1584a8bc98b4", Name: "reload-failed"}

	eventProfileRejected = daemon.EventKind{ID: "dbbb26eb12e84bf2bc3162d7707fd9c2", Name: "profile-rejected"}

	eventsOfTPM = [...]daemon.EventKind{
		emul.PowerOn:         {ID: "b66b655fb6f6438eba5eb973d335c4f4", Name: "power-on"},
		emul.PowerOff:        {ID: "ef61290ee78042d18b481dc6636f3e58", Name: "power-off"},
		emul.InitFailed:      {ID: "d8d645a84d7a42729e04bf1d237c7d6f", Name: "init-failed"},
		emul.StorageReleased: {ID: "9c61b280fb55488b8be0636b95026e46", Name: "storage-released"},
		emul.StorageTaken:    {ID: "49405e59fa9840c6a9651f80431b139f", Name: "storage-taken"},
		emul.StoreWaiting:    {ID: "2df62f11c0874871adfaf97ecc32ef70", Name: "store-waiting"},
		emul.StoreFailed:     {ID: "b83d8986320a4febb05150632534788f", Name: "store-failed"},
		emul.StoreResumed:    {ID: "c7a8c15e8fea4d95b9705795d51d3795", Name: "store-resumed"},
		emul.PolicyFailed:    {ID: "9631ac8c361fb27b7a94f5c1296105b6", Name: "policy-failed"},
	}
)

// describe adds fields that identify the TPM to all entries of the journal. Only a profile has
// an instance; for a classic command line it is "".
func describe(log *daemon.Log, instance string, v tpm.Version) {
	fields := map[string]string{"tpm_version": v.String()}
	if instance != "" {
		fields["instance"] = instance
	}
	log.Describe(fields)
}

// service reports a TPM to systemd and to the journal.
type service struct {
	systemd *daemon.Notifier
	log     *daemon.Log
	problem error           // why the profile is not in use; usually nil
	line    func() string   // one-line summary
	updates *daemon.Service // nil before watch, and if systemd does not ask for them
}

// event reports an event of the TPM.
func (s *service) event(e emul.Event) {
	switch {
	case e.Repeated:
	case e.Kind == emul.PolicyFailed:
		s.log.Alarm(eventsOfTPM[e.Kind], e.Cause, e.String())
	case e.Kind == emul.StoreResumed:
		s.log.Notice(eventsOfTPM[e.Kind], e.Cause, e.String())
	default:
		s.log.Event(eventsOfTPM[e.Kind], isBad(e.Kind), e.Cause, e.String())
	}
	s.changed()
}

// profileRejected logs that the TPM runs with the profile of the previous process because
// of cause, unless that is nil.
func (s *service) profileRejected(cause error) {
	if cause == nil {
		return
	}
	s.problem = errors.New(program.PrintableLine(cause.Error()))
	s.log.Event(eventProfileRejected, true, s.problem.Error(),
		fmt.Sprintf("cannot run with the present profile: %v; running with the previous one until the profile is corrected and the service restarted", s.problem))
}

// isBad reports whether an event is an error.
func isBad(k emul.EventKind) bool {
	return k == emul.InitFailed || k == emul.StoreWaiting || k == emul.StoreFailed
}

// watch is called before the TPM has clients. It makes line and alive available to systemd.
func (s *service) watch(line func() string, alive func() bool) {
	s.line = func() string {
		if s.problem != nil {
			return fmt.Sprintf("the profile has an error: %v; running with the previous one; %s", s.problem, line())
		}
		return line()
	}
	s.updates = s.systemd.Service(s.line, alive)
}

// changed reports that the summary may have changed.
func (s *service) changed() { s.updates.Changed() }

// listener returns changed for a server, or nil without systemd, which reads the summary.
func (s *service) listener() func() {
	if !s.systemd.Listens() {
		return nil
	}
	return s.changed
}

// ready reports that commands are answered. l then sends updates of the summary.
func (s *service) ready(l program.Loop) {
	line := s.line()
	s.systemd.Ready(line)
	s.log.Event(eventReady, false, "", "ready: "+line)
	s.updates.Start(l)
}

// stopping reports that the process ends, and the cause.
func (s *service) stopping(cause error) {
	s.updates.Stopping(cause.Error())
	s.log.Event(eventStopping, false, cause.Error(), "ending: "+cause.Error())
}

// status returns a one-line summary, such as "TPM 2.0 is on; control unix:/c, 1 client; 7
// commands; stored 2026-01-31 23:59:59 UTC".
func status(v tpm.Version, s emul.Status, channels ...string) string {
	power := "off"
	if s.On {
		power = "on"
	}
	parts := []string{fmt.Sprintf("TPM %s is %s", v, power)}
	if s.Waiting != "" {
		parts[0] += ", " + s.Waiting
	}
	for _, c := range channels {
		if c != "" {
			parts = append(parts, c)
		}
	}
	parts = append(parts, count(s.Commands, "command"))
	if !s.Stored.IsZero() {
		parts = append(parts, "stored "+s.Stored.UTC().Format(time.DateTime)+" UTC")
	}
	return strings.Join(parts, "; ")
}

// channelStatus returns the part of status about one channel, "" without a channel.
func channelStatus(name string, e config.Endpoint, clients int) string {
	if e.Kind == config.None && clients == 0 {
		return ""
	}
	if e.Kind != config.None {
		name += " " + e.String()
	}
	return name + ", " + count(uint64(clients), "client")
}

// dataChannel returns the part of status about the data channel. A device has one client,
// the kernel.
func dataChannel(i config.Interface, clients int) string {
	switch {
	case i.Type == config.VTPMProxy:
		return "data of a kernel's device"
	case i.Type == config.CUSE:
		return "/dev/" + i.Name
	case i.Device != "":
		return "data of " + i.Device
	}
	return channelStatus("data", i.Server, clients)
}

// count returns n with its noun.
func count(n uint64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
