package fleet

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
)

// join makes TPMs of units and processes. Every TPM is inspected with a time limit.
func (s *snapshot) join(ctx context.Context, units []Unit, processes []*process) []TPM {
	byPID := map[int]*Unit{}
	var tpms []TPM
	var of []*process
	for i, u := range units {
		switch {
		case u.PID != 0:
			byPID[u.PID] = &units[i]
		case u.State == "failed":
			tpms, of = append(tpms, TPM{Name: u.instance(), Manager: "systemd", Unit: u.Name, State: stateFailed, Verdict: "the unit failed: " + u.Result}), append(of, nil)
		case u.State != "inactive":
			tpms, of = append(tpms, TPM{Name: u.instance(), Manager: "systemd", Unit: u.Name, State: stateStarting}), append(of, nil)
		}
	}
	for _, p := range processes {
		if !p.guest {
			tpms, of = append(tpms, TPM{}), append(of, p)
		}
	}
	each(len(tpms), func(i int) {
		if of[i] == nil {
			return
		}
		basic := s.describe(of[i], byPID[of[i].pid])
		t, err := ofProcess(ctx, s.Host, of[i].pid, func() TPM {
			full := basic
			s.inspect(&full, of[i], byPID[of[i].pid])
			return full
		})
		if err != nil {
			t = basic
			t.Verdict = "not all facts could be read in time"
		}
		tpms[i] = t
	})
	return tpms
}

// describe returns a TPM with the facts about its process that need no profile.
func (s *snapshot) describe(p *process, u *Unit) TPM {
	t := TPM{PID: p.pid, UID: p.uid, State: stateRunning, Manager: "manual", Name: pidName(p.pid)}
	if !p.started.IsZero() {
		t.Started = &p.started
	}
	if p.seccomp == "2" {
		t.Sandbox = "seccomp"
	} else if p.seccomp != "" {
		t.Sandbox = "no seccomp"
	}
	switch {
	case u != nil:
		t.Name, t.Unit, t.Manager = u.instance(), u.Name, "systemd"
		if u.State != "active" && u.State != "reloading" {
			t.State = stateStarting
		}
	case !p.confirmed:
		t.State = stateUnproved
	}
	if p.stopped && t.State == stateRunning {
		t.State = stateStopped
	}
	return t
}

// inspect sets the fields of t from its process. It ignores the claims of a process that is not
// confirmed.
func (s *snapshot) inspect(t *TPM, p *process, u *Unit) {
	if t.State == stateUnproved {
		return
	}
	t.sockets, t.Commands = p.fds, s.commands(p)
	s.compareLibraries(t, p)
	cfg, instance := configOf(p)
	if u != nil {
		readStatus(t, u.Status)
	}
	if cfg == nil {
		return
	}
	cfg.ApplyHost(s.host, metricsName(cfg, instance))
	t.cfg, t.Version = cfg, cfg.TPM.String()
	t.listening = s.listening(p)
	paths := socketPaths(cfg, instance, t.listening)
	confirmed := ""
	clients, known := 0, p.fds != nil || len(paths) > 0 && s.UID != 0
	for _, path := range paths {
		clients += len(s.clients(p, path))
		if confirmed == "" && s.listens(p, path) {
			confirmed = path
		}
	}
	if t.Clients == nil && known {
		t.Clients = &clients
	}
	if u == nil {
		s.name(t, p, instance, confirmed)
	}
	readMetrics(t, cfg.Metrics.File)
	readState(t, cfg)
}

// name sets the name of a TPM that does not belong to a unit.
func (s *snapshot) name(t *TPM, p *process, instance, socket string) {
	if p.unit != "" {
		// A unit of another manager, such as the one of a user.
		t.Unit, t.Manager, t.foreign = p.unit, "systemd", true
		t.Name = Unit{Name: p.unit}.instance()
		return
	}
	if n, ok := nameOf(socket, p.dir); ok && (n.manager == "manual" || s.ownsDirectory(p, n)) {
		t.Manager, t.Name, t.VM = n.manager, n.name, n.vm
		return
	}
	if instance != "" && (t.system() || p.uid == s.UID) {
		t.Name = instance // another user can claim any
	}
}

// metricsName returns the name of the metrics file in the directory of the host.
func metricsName(cfg *config.Config, instance string) string {
	if instance != "" {
		return instance
	}
	return strings.TrimLeft(cfg.State.Location.Path, "/")
}

// The parts of a summary that are facts of the list.
var (
	statusClients  = regexp.MustCompile(`, (\d+) clients?(?:;|$)`)
	statusCommands = regexp.MustCompile(`; (\d+) commands?(?:;|$)`)
	statusStored   = regexp.MustCompile(`; stored (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC(?:;|$)`)
	statusVersion  = regexp.MustCompile(`TPM (1\.2|2\.0) is `)
	statusSandbox  = regexp.MustCompile(`; ((?:no )?seccomp[^;]*)(?:;|$)`)
)

// readStatus reads the summary that a TPM reports to systemd.
func readStatus(t *TPM, status string) {
	if m := statusVersion.FindStringSubmatch(status); m != nil {
		t.Version = m[1]
	}
	if all := statusClients.FindAllStringSubmatch(status, -1); all != nil {
		n := 0
		for _, m := range all {
			one, _ := strconv.Atoi(m[1])
			n += one
		}
		t.Clients = &n
	}
	if m := statusCommands.FindStringSubmatch(status); m != nil && t.Commands == nil {
		if n, err := strconv.ParseUint(m[1], 10, 64); err == nil {
			t.Commands = &n
		}
	}
	if m := statusStored.FindStringSubmatch(status); m != nil {
		if at, err := time.Parse(time.DateTime, m[1]); err == nil {
			t.Stored = &at
		}
	}
	if m := statusSandbox.FindStringSubmatch(status); m != nil {
		t.Sandbox = m[1]
	}
}
