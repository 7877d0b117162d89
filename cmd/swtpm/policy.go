package main

import (
	"strings"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/daemon"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/nv/mark"
)

// hostNotes are the effects of the host's settings on one TPM.
type hostNotes struct {
	err     error    // why they are ignored
	changed []string // the changed settings, a line each
}

// applyHost reads the settings of the host and applies them to cfg. An error in them
// stops no TPM. instance names the TPM, "" for a command line.
func applyHost(cfg *config.Config, instance string) (n hostNotes) {
	h, err := config.LoadHost(config.HostFile)
	if instance == "" {
		instance = strings.TrimLeft(cfg.State.Location.Path, "/")
	}
	return hostNotes{err, cfg.ApplyHost(h, instance)}
}

// log logs the notes: an error in one line.
func (n hostNotes) log(log *daemon.Log) {
	if n.err != nil {
		log.Warnf("host policy ignored, defaults used: %s", strings.ReplaceAll(n.err.Error(), "\n", "; "))
	}
	for _, text := range n.changed {
		log.Infof("host policy: %s", text)
	}
}

// applyHost applies the settings of the host. It comes before anything that they change,
// and before the root directory and the user.
func (e *emulator) applyHost() {
	if e.cfg.Printing() == "" {
		e.source.host = applyHost(e.cfg, e.source.instance)
	}
}

// openMarks opens the marks, nil if this process may not use them.
func openMarks(cfg *config.Config) *mark.Dir {
	d, err := mark.Open(cfg.Host.Rollback.Marks)
	if err != nil {
		return nil
	}
	return d
}

// rollbackOptions sets what happens to an old or mixed state.
func rollbackOptions(o *emul.Options, cfg *config.Config) {
	o.KeyArgument = cfg.Key.Argument()
	switch {
	case cfg.Host.Rollback.Policy == config.RollbackOff || cfg.State.Relaxed || cfg.PrintInfo != 0:
		o.Rollback = emul.IgnoreRollback
		return
	case cfg.Host.Rollback.Policy == config.RollbackRefuse:
		o.Rollback = emul.RefuseRollback
	}
	if marks := openMarks(cfg); marks != nil {
		o.Marks, o.Location = marks, cfg.State.Absolute()
	}
}

// readMark returns the function that reads the mark of a TPM, nil if this process may
// not.
func (w *stateTarget) readMark() func(generation.Identity) (generation.Mark, error) {
	h, err := config.LoadHost(config.HostFile)
	if err != nil {
		warnf("host policy ignored, defaults used: %v", err)
	}
	w.cfg.Host = h
	if marks := openMarks(w.cfg); marks != nil {
		return marks.Read
	}
	return nil
}
