// Package fleet lists all TPMs of a host, whichever program started them. It also restarts the TPMs
// that run replaced libraries, and publishes the metrics of all TPMs.
//
// It reads /proc, systemd's view of the units, profiles and state files. For a list it does not
// connect to any TPM: a connection would use up one of the TPM's connections, and could end a TPM
// that ends with its last client. It uses the claim of another process, such as its command line,
// only if the kernel confirms it.
package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/store"
)

// The values of TPM.State.
const (
	stateRunning  = "running"
	stateStarting = "starting"
	stateStopped  = "stopped" // without a process, or by a signal such as SIGSTOP
	stateFailed   = "failed"
	stateUnproved = "unconfirmed" // a process that calls itself swtpm; nothing confirms it
)

// TPM is one TPM of the host. Programs may depend on its JSON. Unknown fields are missing.
type TPM struct {
	Name    string `json:"name"`
	VM      string `json:"vm,omitempty"`
	Manager string `json:"manager"` // "systemd", "libvirt", "incus", "proxmox", "vmspawn" or "manual"
	Unit    string `json:"unit,omitempty"`
	State   string `json:"state"`
	Version string `json:"tpm,omitempty"` // "1.2" or "2.0"

	PID     int        `json:"pid,omitempty"`
	UID     int        `json:"uid"`
	Started *time.Time `json:"started,omitempty"`
	Uptime  float64    `json:"uptimeSeconds,omitempty"`

	Clients  *int    `json:"clients,omitempty"`
	Commands *uint64 `json:"commands,omitempty"` // since the start

	Location   string      `json:"location,omitempty"` // of the state: dir://PATH, file://PATH or store://NAME
	Owner      *storeOwner `json:"owner,omitempty"`    // of a state in a cluster store; nil for another state, or if it is unknown
	Stored     *time.Time  `json:"stored,omitempty"`   // last change of the permanent state
	Generation *uint64     `json:"generation,omitempty"`
	Identity   string      `json:"identity,omitempty"`
	// SameIdentity names the other TPMs with this identity: copies, of which one may be used.
	SameIdentity []string `json:"sameIdentity,omitempty"`

	Encryption string `json:"encryption,omitempty"` // "none", "aes-128-cbc", "aes-256-cbc"
	Sandbox    string `json:"sandbox,omitempty"`

	Libtpms   *loadedFile `json:"libtpms,omitempty"`
	Libcrypto *loadedFile `json:"libcrypto,omitempty"`
	Program   *loadedFile `json:"program,omitempty"`

	Restart string   `json:"restart"`           // "not needed", "needed" or "unknown"
	Reasons []string `json:"reasons,omitempty"` // why a restart is needed, or why that is unknown

	Verdict string `json:"verdict,omitempty"` // of swtpm doctor, or why the unit failed

	cfg       *config.Config  // nil if unknown
	sockets   map[uint64]bool // inodes of its sockets, nil if unknown
	listening []string        // paths that it listens on, as the kernel has them
	foreign   bool            // its unit belongs to another service manager
	text      []byte          // its own metrics, nil if it has none
}

// The values of TPM.Restart.
const (
	RestartNotNeeded = "not needed"
	RestartNeeded    = "needed"
	RestartUnknown   = "unknown"
)

// Host is where the facts come from. NewHost returns the real one.
type Host struct {
	Proc  string // the mount point of proc
	UID   int    // of the caller
	Own   bool   // only the TPMs of this user
	Units Units  // nil without systemd

	// Profiles are the directories of profiles, States the directory of the units' states.
	Profiles []string
	States   string

	// Peers returns the inode of the peer of each connected Unix socket.
	Peers func() (map[uint64]uint64, error)

	// Describe asks the broker of the cluster store about states. It returns the name of this
	// host in the store, and the states that exist. If it is nil, owners are unknown.
	Describe func(ctx context.Context, states []string) (host string, all []store.Entry, err error)

	// Doctor returns the verdict of swtpm doctor on profiles; nil to leave it out.
	Doctor func(ctx context.Context, names []string) map[string]string

	managerTime time.Duration // limit for the service manager

	busy sync.Map // PIDs whose files are being read
}

// OwnHost returns the host as the caller sees it: root sees all TPMs, another user only its own.
func OwnHost() *Host {
	h := NewHost()
	if h.UID != 0 {
		h.Own, h.Profiles, h.States = true, config.OwnProfileDirs(), ""
	}
	return h
}

// limit is how long the collection waits for one source, or for the files of one process.
const limit = 2 * time.Second

// managerLimit is the limit for the service manager, which gets some hundred requests for 200 TPMs.
// Without its replies the list is far from complete.
const managerLimit = 10 * time.Second

// NewHost returns the host that the process runs on.
func NewHost() *Host {
	dirs, _ := config.ProfileDirs()
	return &Host{Proc: "/proc", UID: os.Geteuid(), Profiles: dirs, States: "/var/lib/swtpm", Peers: peers, Describe: describe, Doctor: doctor, managerTime: managerLimit}
}

// snapshot contains the data that all parts of one collection use.
type snapshot struct {
	*Host
	now       time.Time
	boot      time.Time
	installed files             // of libraries, by path
	sockets   map[string]*table // by network namespace
	mu        sync.Mutex        // held while installed and sockets are used
	host      config.Host
}

// snapshot returns an empty snapshot of now.
func (h *Host) snapshot() *snapshot {
	s := &snapshot{Host: h, now: time.Now(), boot: bootTime(h.Proc), installed: files{}, sockets: map[string]*table{}}
	s.host, _ = config.LoadHost(config.HostFile)
	return s
}

// one returns the TPM of one unit.
func (h *Host) one(ctx context.Context, unit string) (*TPM, error) {
	units, err := within(ctx, func(ctx context.Context) ([]Unit, error) { return h.Units.List(ctx, unit) })
	if err != nil {
		return nil, err
	}
	s := h.snapshot()
	var processes []*process
	for _, u := range units {
		if u.PID == 0 {
			continue
		}
		p, err := ofProcess(ctx, h, u.PID, func() *process { return s.process(u.PID) })
		if err == nil && p != nil {
			processes = append(processes, p)
		}
	}
	tpms := s.join(ctx, units, processes)
	if len(tpms) != 1 {
		return nil, fmt.Errorf("systemd knows no unit %s", unit)
	}
	tpms[0].finish(s.now)
	return &tpms[0], nil
}

// Collect returns the TPMs, sorted by name, and notes about sources that did not answer.
func (h *Host) Collect(ctx context.Context) (tpms []TPM, notes []string) {
	s := h.snapshot()
	var units []Unit
	var wait sync.WaitGroup
	if h.Units != nil {
		wait.Go(func() {
			var err error
			units, err = in(ctx, h.managerTime, func(ctx context.Context) ([]Unit, error) { return h.Units.List(ctx, "swtpm@*.service") })
			if err != nil {
				notes = append(notes, "systemd does not answer: "+err.Error())
			}
		})
	}
	processes := s.processes(ctx)
	wait.Wait()
	tpms = s.join(ctx, units, processes)
	s.nameByGuest(tpms, processes)
	tpms = append(tpms, s.stopped(ctx, tpms)...)
	if err := s.owners(ctx, tpms); err != nil {
		notes = append(notes, "the owners of states in the cluster store are unknown: "+err.Error())
	}
	for i := range tpms {
		tpms[i].finish(s.now)
	}
	distinguish(tpms)
	twins(tpms)
	slices.SortStableFunc(tpms, func(a, b TPM) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.PID, b.PID)) })
	return tpms, notes
}

// within calls f and returns its result, but waits for it only until limit, because f may wait for
// a file system or a process that never answers.
func within[T any](ctx context.Context, f func(ctx context.Context) (T, error)) (T, error) {
	return in(ctx, limit, f)
}

// in does the same as within, with another limit.
func in[T any](ctx context.Context, limit time.Duration, f func(ctx context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	v, err := program.Await(ctx, func() (T, error) { return f(ctx) })
	if errors.Is(err, program.ErrInterrupted) {
		err = context.DeadlineExceeded
	}
	return v, err
}

// errBusy means that an earlier call of ofProcess for the process has not returned.
var errBusy = errors.New("an earlier reading of the process has not ended")

// ofProcess calls f, which reads files of a process, within the limit. If reading the files of a
// process never ends, it occupies only one goroutine, whatever the number of calls.
func ofProcess[T any](ctx context.Context, h *Host, pid int, f func() T) (T, error) {
	if _, busy := h.busy.LoadOrStore(pid, true); busy {
		var none T
		return none, errBusy
	}
	return within(ctx, func(context.Context) (T, error) {
		defer h.busy.Delete(pid)
		return f(), nil
	})
}

// each calls f for every index below n, a few at once.
func each(n int, f func(i int)) {
	const atOnce = 16
	var wait sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i := range n {
		free <- struct{}{}
		wait.Go(func() {
			f(i)
			<-free
		})
	}
	wait.Wait()
}

// finish sets the fields that follow from others.
func (t *TPM) finish(now time.Time) {
	if t.Started != nil {
		t.Uptime = now.Sub(*t.Started).Seconds()
	}
	if !t.hasStarted() && t.State != stateUnproved {
		t.Restart = RestartNotNeeded
		return
	}
	t.judge()
}

// hasStarted reports whether a process has started the TPM, also if a signal has stopped that process.
func (t *TPM) hasStarted() bool { return t.State == stateRunning || t.halted() }

// halted reports whether a signal has stopped the process.
func (t *TPM) halted() bool { return t.State == stateStopped && t.PID != 0 }

// names returns what patterns match: the name, the virtual machine and the unit.
func (t *TPM) names() []string {
	return []string{t.Name, t.VM, t.Unit, strings.TrimSuffix(t.Unit, ".service")}
}

// match reports whether one of the patterns of path.Match matches one of the names. No pattern
// matches all.
func match(patterns, names []string) bool {
	for _, p := range patterns {
		for _, name := range names {
			if ok, _ := path.Match(p, name); ok && name != "" {
				return true
			}
		}
	}
	return len(patterns) == 0
}

// CheckPatterns returns an error for a pattern that path.Match cannot read.
func CheckPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return errors.New("invalid pattern " + p + "; quote [ and \\ with a backslash")
		}
	}
	return nil
}

// Select returns the TPMs whose names match the patterns.
func Select(all []TPM, patterns []string) []TPM {
	return slices.DeleteFunc(slices.Clone(all), func(t TPM) bool { return !match(patterns, t.names()) })
}

// SelectLocations returns also the TPMs without a name that have a state whose location matches the
// patterns. Any user can choose the location, so it selects TPMs to look at, and none to restart.
func SelectLocations(all []TPM, patterns []string) []TPM {
	return slices.DeleteFunc(slices.Clone(all), func(t TPM) bool { return !match(patterns, append(t.names(), t.locations()...)) })
}
