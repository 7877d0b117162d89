package store_test

import (
	"fmt"
	"syscall"
	"time"
)

// fault breaks something in a world while its clients work, and repairs it. It returns how
// long a failover took, 0 without one.
type fault struct {
	name string
	run  func(w *world) (time.Duration, error)
}

// hostFaults break one host.
var hostFaults = []fault{
	{"host dies", hostDies},
	{"TPM killed", tpmKilled},
	{"broker killed", brokerKilled},
	{"host stopped longer than the TTL", hostStops},
	{"TPM stopped longer than the TTL", tpmStops},
	{"broker stopped longer than the TTL", brokerStops},
	{"cable pulled", partition(cable)},
	{"packets dropped", partition(drop)},
	{"incoming packets dropped", partition(deaf)},
	{"outgoing packets dropped", partition(mute)},
	{"connections reset", partition(reject)},
	{"short partition", shortPartition},
	{"partition without a takeover", longPartition},
	{"orderly move", orderlyMove},
	{"host dies in a partition", diesCut},
}

// hostDies kills everything on the host. Later the host boots again.
func hostDies(w *world) (time.Duration, error) {
	i := w.now()
	signal(i.Process, syscall.SIGKILL)
	signal(i.host.broker, syscall.SIGKILL)
	took, err := w.failover()
	<-i.host.broker.Done
	i.host.reboot()
	return took, err
}

// tpmKilled kills the TPM. It starts again on the same host at once.
func tpmKilled(w *world) (time.Duration, error) {
	i := w.now()
	signal(i.Process, syscall.SIGKILL)
	_, err := w.move(i.host, ttl-margin)
	return 0, err
}

// brokerKilled kills the broker and starts it again. The TPM goes on.
func brokerKilled(w *world) (time.Duration, error) {
	i := w.now()
	signal(i.host.broker, syscall.SIGKILL)
	<-i.host.broker.Done
	time.Sleep(time.Duration(w.rand.IntN(1000)) * time.Millisecond)
	i.host.startBroker()
	return 0, w.goesOn(i)
}

// hostStops stops all processes of the host, which is continued after another host has the
// state: not even the first response may leave.
func hostStops(w *world) (time.Duration, error) {
	i := w.now()
	signal(i.Process, syscall.SIGSTOP)
	signal(i.host.broker, syscall.SIGSTOP)
	took, err := w.failover()
	time.Sleep(300 * time.Millisecond)
	signal(i.Process, syscall.SIGCONT)
	signal(i.host.broker, syscall.SIGCONT)
	if err != nil {
		return 0, err
	}
	return took, w.ends(i)
}

// tpmStops stops the TPM alone: its broker keeps the state for it, so another host must not
// get it.
func tpmStops(w *world) (time.Duration, error) {
	i := w.now()
	signal(i.Process, syscall.SIGSTOP)
	defer signal(i.Process, syscall.SIGCONT)
	begin := time.Now()
	for time.Since(begin) < ttl+time.Second {
		if j := w.other().launch(w.state); j.answers() {
			return 0, fmt.Errorf("host %s gets the state that host %s owns", j.host.name, i.host.name)
		}
		time.Sleep(time.Second)
	}
	signal(i.Process, syscall.SIGCONT)
	return 0, w.goesOn(i)
}

// brokerStops stops the broker alone, until another host has the state.
func brokerStops(w *world) (time.Duration, error) {
	i := w.now()
	signal(i.host.broker, syscall.SIGSTOP)
	took, err := w.failover()
	time.Sleep(300 * time.Millisecond)
	signal(i.host.broker, syscall.SIGCONT)
	if err != nil {
		return 0, err
	}
	return took, w.ends(i)
}

// partition separates the host until another one has the state.
func partition(c cut) func(w *world) (time.Duration, error) {
	return func(w *world) (time.Duration, error) {
		i := w.now()
		c.off(i.host.node)
		took, err := w.failover()
		time.Sleep(300 * time.Millisecond)
		c.heal(i.host.node)
		if err != nil {
			return 0, err
		}
		return took, w.ends(i)
	}
}

// anyCut returns a way to separate a host.
func (w *world) anyCut() cut { return []cut{cable, drop, deaf, mute, reject}[w.rand.IntN(5)] }

// shortPartition separates the host for a time before the deadline.
func shortPartition(w *world) (time.Duration, error) {
	i, c := w.now(), w.anyCut()
	c.off(i.host.node)
	time.Sleep(time.Duration(500+w.rand.IntN(1500)) * time.Millisecond)
	c.heal(i.host.node)
	return 0, w.goesOn(i)
}

// longPartition separates the host until its lease has expired. No other host takes the state,
// so the same process acquires it again.
func longPartition(w *world) (time.Duration, error) {
	i, c := w.now(), w.anyCut()
	c.off(i.host.node)
	time.Sleep(ttl + slack)
	c.heal(i.host.node)
	return 0, w.goesOn(i)
}

// orderlyMove ends the TPM, and starts it on another host at once.
func orderlyMove(w *world) (time.Duration, error) {
	i := w.now()
	signal(i.Process, syscall.SIGTERM)
	<-i.Done
	if code := i.Cmd.ProcessState.ExitCode(); code != 0 {
		return 0, fmt.Errorf("after SIGTERM: exit code %d: %s", code, i.Out.String())
	}
	_, err := w.move(w.other(), ttl-margin)
	return 0, err
}

// diesCut is a host that dies while it is separated, so that nothing that it sent in the
// meantime arrived.
func diesCut(w *world) (time.Duration, error) {
	i, c := w.now(), w.anyCut()
	c.off(i.host.node)
	time.Sleep(time.Duration(w.rand.IntN(3000)) * time.Millisecond)
	signal(i.Process, syscall.SIGKILL)
	signal(i.host.broker, syscall.SIGKILL)
	took, err := w.failover()
	<-i.host.broker.Done
	c.heal(i.host.node)
	i.host.reboot()
	return took, err
}
