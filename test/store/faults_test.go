package store_test

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/store/lab"
)

// fault breaks something in a world while its clients work, and repairs it. It returns how
// long a failover took, nothing without one.
type fault struct {
	name string
	run  func(w *world) (taken, error)
}

// hostFaults break one host.
var hostFaults = []fault{
	{"host dies", hostDies},
	{"TPM killed", tpmKilled},
	{"broker killed", brokerKilled},
	{"host stopped longer than the TTL", hostStops},
	{"TPM stopped longer than the TTL", tpmStops},
	{"broker stopped longer than the TTL", brokerStops},
	{"cable pulled", partition(lab.Cable)},
	{"packets dropped", partition(lab.Drop)},
	{"incoming packets dropped", partition(lab.Deaf)},
	{"outgoing packets dropped", partition(lab.Mute)},
	{"connections reset", partition(lab.Reject)},
	{"short partition", shortPartition},
	{"partition without a takeover", longPartition},
	{"orderly move", orderlyMove},
	{"host dies in a partition", diesCut},
	{"broker killed after the lease was lost", brokerKilledLater},
}

// hostDies kills everything on the host. Later the host boots again.
func hostDies(w *world) (taken, error) {
	i := w.now()
	lab.Signal(i.Process, syscall.SIGKILL)
	lab.Signal(i.Host.Broker, syscall.SIGKILL)
	took, err := w.failover()
	<-i.Host.Broker.Done
	i.Host.Reboot()
	return took, err
}

// tpmKilled kills the TPM. It starts again on the same host at once.
func tpmKilled(w *world) (taken, error) {
	i := w.now()
	lab.Signal(i.Process, syscall.SIGKILL)
	return w.moveSoon(i.Host)
}

// brokerKilled kills the broker and starts it again. The TPM goes on.
func brokerKilled(w *world) (taken, error) {
	i := w.now()
	lab.Signal(i.Host.Broker, syscall.SIGKILL)
	<-i.Host.Broker.Done
	time.Sleep(time.Duration(w.rand.IntN(1000)) * time.Millisecond)
	i.Host.StartBroker()
	return taken{}, w.goesOn(i)
}

// hostStops stops all processes of the host, which is continued after another host has the
// state: not even the first response may leave.
func hostStops(w *world) (taken, error) {
	i := w.now()
	lab.Freeze(i.Process)
	lab.Freeze(i.Host.Broker)
	took, err := w.failover()
	time.Sleep(300 * time.Millisecond)
	lab.Signal(i.Process, syscall.SIGCONT)
	lab.Signal(i.Host.Broker, syscall.SIGCONT)
	if err != nil {
		return taken{}, err
	}
	return took, w.ends(i)
}

// tpmStops stops the TPM alone: its broker keeps the state for it, so another host must not
// get it, unless the machine is too busy for the broker to keep its lease.
func tpmStops(w *world) (taken, error) {
	i := w.now()
	expired := func() int { return strings.Count(i.Host.Broker.Out.String(), "the lease of this host expired") }
	before := expired()
	lab.Freeze(i.Process)
	defer lab.Signal(i.Process, syscall.SIGCONT)
	begin := time.Now()
	for time.Since(begin) < ttl+time.Second {
		if j := w.other().Launch(w.state); j.Answers() {
			if harness.Until(func() bool { return expired() > before }) != nil {
				return taken{}, fmt.Errorf("host %s gets the state that host %s owns", j.Host.Name, i.Host.Name)
			}
			w.mu.Lock()
			w.live = append(w.live, j)
			w.mu.Unlock()
			lab.Signal(i.Process, syscall.SIGCONT)
			return taken{}, w.ends(i)
		}
		time.Sleep(time.Second)
	}
	lab.Signal(i.Process, syscall.SIGCONT)
	return taken{}, w.goesOn(i)
}

// brokerStops stops the broker alone, until another host has the state.
func brokerStops(w *world) (taken, error) {
	i := w.now()
	lab.Freeze(i.Host.Broker)
	took, err := w.failover()
	time.Sleep(300 * time.Millisecond)
	lab.Signal(i.Host.Broker, syscall.SIGCONT)
	if err != nil {
		return taken{}, err
	}
	return took, w.ends(i)
}

// partition separates the host until another one has the state.
func partition(c lab.Cut) func(w *world) (taken, error) {
	return func(w *world) (taken, error) {
		i := w.now()
		c.Off(i.Host.Node)
		took, err := w.failover()
		time.Sleep(300 * time.Millisecond)
		c.Heal(i.Host.Node)
		if err != nil {
			return taken{}, err
		}
		return took, w.ends(i)
	}
}

// anyCut returns a way to separate a host.
func (w *world) anyCut() lab.Cut {
	return []lab.Cut{lab.Cable, lab.Drop, lab.Deaf, lab.Mute, lab.Reject}[w.rand.IntN(5)]
}

// shortPartition separates the host for a time before the deadline.
func shortPartition(w *world) (taken, error) {
	i, c := w.now(), w.anyCut()
	c.Off(i.Host.Node)
	time.Sleep(time.Duration(500+w.rand.IntN(1500)) * time.Millisecond)
	c.Heal(i.Host.Node)
	return taken{}, w.goesOn(i)
}

// longPartition separates the host until its lease has expired. No other host takes the state,
// so the same process acquires it again.
func longPartition(w *world) (taken, error) {
	i, c := w.now(), w.anyCut()
	c.Off(i.Host.Node)
	time.Sleep(ttl + slack)
	c.Heal(i.Host.Node)
	return taken{}, w.goesOn(i)
}

// brokerKilledLater kills the broker after it has acquired the state again, with a token that
// the TPM does not know.
func brokerKilledLater(w *world) (taken, error) {
	if took, err := longPartition(w); err != nil {
		return took, err
	}
	return brokerKilled(w)
}

// orderlyMove ends the TPM, and starts it on another host at once.
func orderlyMove(w *world) (taken, error) {
	if err := w.leave(w.now()); err != nil {
		return taken{}, err
	}
	return w.moveSoon(w.other())
}

// leave ends the TPM as a service manager does.
func (w *world) leave(i *lab.Instance) error {
	lab.Signal(i.Process, syscall.SIGTERM)
	<-i.Done
	if code := i.Cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("after SIGTERM: exit code %d: %s", code, i.Out.String())
	}
	return nil
}

// diesCut is a host that dies while it is separated, so that nothing that it sent in the
// meantime arrived.
func diesCut(w *world) (taken, error) {
	i, c := w.now(), w.anyCut()
	c.Off(i.Host.Node)
	time.Sleep(time.Duration(w.rand.IntN(3000)) * time.Millisecond)
	lab.Signal(i.Process, syscall.SIGKILL)
	lab.Signal(i.Host.Broker, syscall.SIGKILL)
	took, err := w.failover()
	<-i.Host.Broker.Done
	c.Heal(i.Host.Node)
	i.Host.Reboot()
	return took, err
}
