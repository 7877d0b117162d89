package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
)

// Upgrade restarts TPMs under their guests.
type Upgrade struct {
	Host *Host
	Jobs int // how many TPMs are restarted at the same time; at least 1

	// AnswerTimeout is how long a TPM may take to answer; default: probeTime.
	AnswerTimeout time.Duration

	// Progress is called after each TPM, one call at a time.
	Progress func(done, all int, t *TPM, err error)
}

// Plan divides TPMs into those to restart and those that cannot be, with the reason.
type Plan struct {
	Restart []TPM     `json:"restart"`
	Cannot  []refusal `json:"cannot"`
	Fine    int       `json:"fine"` // number of TPMs that need no restart
}

// refusal is a TPM that cannot be restarted under its guest.
type refusal struct {
	TPM  TPM    `json:"tpm"`
	Why  string `json:"why"`
	Help string `json:"help"`
}

// Result is what an upgrade did.
type Result struct {
	Restarted []string `json:"restarted"`
	Failed    []string `json:"failed,omitempty"` // name and reason
	Left      []string `json:"left,omitempty"`   // not restarted because one failed
}

// Plan decides about each TPM.
func (u *Upgrade) Plan(ctx context.Context, tpms []TPM) Plan {
	p := Plan{Restart: []TPM{}, Cannot: []refusal{}} // so that empty ones are arrays in JSON
	for _, t := range tpms {
		switch {
		case t.Restart == RestartNotNeeded:
			p.Fine++
		default:
			why, help := u.obstacle(ctx, &t)
			if why == "" {
				p.Restart = append(p.Restart, t)
			} else {
				p.Cannot = append(p.Cannot, refusal{t, why, help})
			}
		}
	}
	return p
}

// starters are the programs that start TPMs as their own processes, each with the remedy.
var starters = map[string]string{
	"libvirt": "migrate or restart the virtual machine, or use managedsave and start; a TPM of swtpm@.service with <backend type='external'> can be restarted",
	"incus":   "restart or migrate the instance",
	"proxmox": "migrate or restart the virtual machine",
	"vmspawn": "restart the virtual machine",
	"manual":  "end it and start it again; a TPM of swtpm@.service can be restarted under its guest",
}

// obstacle returns why a TPM cannot be restarted under its guest, "" if it can.
func (u *Upgrade) obstacle(ctx context.Context, t *TPM) (why, help string) {
	switch {
	case t.State == stateUnproved:
		return "it is not confirmed that this process is a TPM", "find its owner: ps -p " + fmt.Sprint(t.PID)
	case t.Manager != "systemd":
		name := t.Manager
		if name == "manual" {
			name = "no service manager"
		}
		return "started by " + name, starters[t.Manager]
	case t.Restart == RestartUnknown && u.Host.Own:
		return "its program and libraries are not visible", "restart it: systemctl --user restart " + t.Unit
	case t.Restart == RestartUnknown:
		return "its program and libraries are not visible", "run swtpm upgrade as root"
	case u.Host.Units == nil:
		return "systemd does not answer", "see systemctl status"
	case t.foreign:
		return "it belongs to the service manager of another user", "run swtpm upgrade as user " + fmt.Sprint(t.UID)
	case t.cfg != nil && t.cfg.Service.KeepSession == config.SessionNo:
		return `its profile has keep-session = "no": a restart would take the TPM from its guest`, `remove the line, and restart the unit while the guest is off`
	}
	if n, err := u.Host.Units.Stored(ctx, t.Unit); err != nil || n == 0 {
		return "systemd stores nothing of it: a restart would take the TPM from its guest",
			"restart the unit while the guest is off; the unit needs FileDescriptorStoreMax="
	}
	return "", ""
}

// Run restarts the TPMs of a plan. If a TPM does not run unchanged after its restart, Run begins no
// further restarts, and finishes those that have begun.
func (u *Upgrade) Run(ctx context.Context, tpms []TPM) Result {
	r := Result{Restarted: []string{}}
	var mu sync.Mutex // held while r, next and stopped are used
	next, done, stopped := 0, 0, false
	take := func() *TPM {
		mu.Lock()
		defer mu.Unlock()
		if stopped || ctx.Err() != nil || next == len(tpms) {
			return nil
		}
		next++
		return &tpms[next-1]
	}
	var wait sync.WaitGroup
	for range min(max(u.Jobs, 1), max(len(tpms), 1)) {
		wait.Go(func() {
			for t := take(); t != nil; t = take() {
				err := u.restart(context.WithoutCancel(ctx), t)
				mu.Lock()
				done++
				if err != nil {
					stopped = true
					r.Failed = append(r.Failed, t.Name+": "+err.Error())
				} else {
					r.Restarted = append(r.Restarted, t.Name)
				}
				if u.Progress != nil {
					u.Progress(done, len(tpms), t, err)
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	for _, t := range tpms[next:] {
		r.Left = append(r.Left, t.Name)
	}
	return r
}

// restart restarts one TPM and compares it with its state before.
func (u *Upgrade) restart(ctx context.Context, t *TPM) error {
	before, err := take(ctx, t, cmp.Or(u.AnswerTimeout, probeTime))
	if err != nil {
		return fmt.Errorf("not restarted, because it does not answer: %w", err)
	}
	clients := u.connections(t)
	ctx, cancel := context.WithTimeout(ctx, restartTime)
	defer cancel()
	if err := u.Host.Units.Restart(ctx, t.Unit); err != nil {
		return err
	}
	now, err := u.awaitActive(ctx, t)
	if err != nil {
		return err
	}
	after, err := take(ctx, now, cmp.Or(u.AnswerTimeout, probeTime))
	if err != nil {
		return fmt.Errorf("it does not answer after the restart: %w", err)
	}
	if what := changed(t, now, before, after); what != "" {
		return errors.New("it is not the same after the restart: " + what)
	}
	if n := u.disconnected(ctx, now, clients); n > 0 {
		return fmt.Errorf("it lost %d of %d clients", n, len(clients))
	}
	if now.Restart == RestartNeeded {
		return errors.New("it still runs a replaced library")
	}
	return nil
}

// awaitActive waits until a unit runs a new process that reports itself ready.
func (u *Upgrade) awaitActive(ctx context.Context, t *TPM) (*TPM, error) {
	for {
		now, err := u.Host.one(ctx, t.Unit)
		switch {
		case err != nil:
		case now.State == stateFailed:
			return nil, errors.New(now.Verdict)
		case now.State == stateRunning && now.PID != t.PID:
			return now, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.New("it did not become active; see journalctl --unit " + t.Unit)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// connections returns the connections of a TPM: the inode of the client's socket by the
// inode of the TPM's, which a restart does not change.
func (u *Upgrade) connections(t *TPM) map[uint64]uint64 {
	found := map[uint64]uint64{}
	now, err := u.Host.one(context.Background(), t.Unit)
	if err != nil || u.Host.Peers == nil {
		return found
	}
	peers, err := u.Host.Peers()
	if err != nil {
		return found
	}
	for inode := range now.sockets {
		if peer, ok := peers[inode]; ok && peer != 0 {
			found[inode] = peer
		}
	}
	return found
}

// disconnected returns how many clients have lost their connection: the TPM no longer has it, and
// the client still does. It checks again for a second, because a client may be disconnecting by
// itself.
func (u *Upgrade) disconnected(ctx context.Context, t *TPM, before map[uint64]uint64) (n int) {
	for range 10 {
		if u.Host.Peers == nil {
			return 0
		}
		n = 0
		peers, err := u.Host.Peers()
		if err != nil || t.sockets == nil {
			return 0
		}
		for inode, client := range before {
			if _, open := peers[client]; open && !t.sockets[inode] {
				n++
			}
		}
		if n == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return n
		case <-time.After(100 * time.Millisecond):
		}
	}
	return n
}
