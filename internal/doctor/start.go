package doctor

import (
	"errors"
	"fmt"
	"strings"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// start starts the TPM in memory with a copy of its state, because only libtpms knows whether
// it accepts the state.
func (x *examination) start() {
	if x.noState || x.failed("algorithm-profile") {
		return
	}
	if !x.keysKnown {
		if !x.failed("key") {
			x.add(Note, "", "", "start not checked: the key is unknown")
		}
		return
	}
	var notes, warnings []string
	t, err := emul.New(x.ctx, x.engine, emul.Options{
		Version:        x.cfg.TPM,
		Where:          x.cfg.State.Location.String(),
		Library:        x.engine.Version,
		Profile:        x.profile,
		NoNew:          x.cfg.Manufacture.Given,
		Keys:           x.keys,
		Backup:         x.cfg.State.Backup,
		NoAutoShutdown: true,
		Rollback:       x.engine.Rollback,
		Marks:          x.engine.Marks,
		Location:       x.cfg.State.Absolute(),
		KeyArgument:    x.cfg.Key.Argument(),
		Note:           func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) },
		Error:          func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) },
		Event:          func(emul.Event) {}, // INIT returns the error
		Open: func() (*nv.Store, error) {
			var b nv.Backend
			if !x.emptyState {
				var err error
				if b, err = x.open(x.cfg.TPM, false, nil); err != nil {
					return nil, err
				}
			}
			return nv.New(nv.Scratch(b), x.prefix(), x.keys.File), nil
		},
	})
	if err != nil {
		return // library has reported it
	}
	defer func() { _ = t.Close() }()
	if err := t.Init(false); err != nil {
		inUse := errors.Is(err, nv.ErrRunning) || errors.Is(err, nv.ErrLocked)
		if len(x.bad) == 0 && !x.failed("state") && !(inUse && x.failed("lock")) {
			x.startFailed(err)
		}
		return
	}
	for _, w := range warnings {
		x.warning(w)
	}
	x.startSucceeded(notes)
	x.startup(t)
}

// warning adds a warning of the start, such as an old state. If text has the form "STATE: WARNING;
// ADVICE", it is split into the fields of the finding.
func (x *examination) warning(text string) {
	where, advice := x.cfg.State.Location.String(), ""
	what, ok := strings.CutPrefix(text, where+": ")
	if !ok {
		where = ""
	}
	if i := strings.LastIndex(what, "; "); ok && i > 0 {
		what, advice = what[:i], what[i+2:]
	}
	x.add(Warning, where, advice, "%s", what)
}

// startFailed reports that the TPM does not start because of err.
func (x *examination) startFailed(err error) {
	where := x.cfg.State.Location.String()
	if e, ok := errors.AsType[*emul.RollbackError](err); ok {
		x.add(Error, where, e.Advice, "the rollback policy of this host, \"refuse\", refuses the state: %v", e.Finding)
		return
	}
	x.add(Error, where, x.settings.State(err), "the TPM does not start with libtpms %s: %v", x.engine.Version, err)
}

// startSucceeded turns the errors about parts of the state into warnings, because the TPM starts in
// spite of them, and adds the notes of the start.
func (x *examination) startSucceeded(notes []string) {
	if x.emptyState {
		return // state has reported it
	}
	for _, n := range x.bad {
		x.report.Findings[n].Severity = Warning
	}
	x.report.Starts = true
	for _, f := range x.report.Findings {
		x.report.Starts = x.report.Starts && f.Severity != Error
	}
	for _, n := range notes {
		x.add(Note, "", "", "%s", n)
	}
}

// startup sends the configured Startup to the TPM in memory.
func (x *examination) startup(t *emul.TPM) {
	name := x.cfg.Flags.Startup
	if name == config.NoStartup || name == config.StartupNone || name == config.StartupDeactivated && x.cfg.TPM == tpm.V20 {
		return
	}
	cmd, ok := t.StartupCommand(string(name))
	if !ok {
		return
	}
	rsp, err := t.Execute(cmd)
	h, ok := tpm.ParseHeader(rsp)
	switch {
	case err != nil || !ok:
		x.add(Error, x.cfg.State.Location.String(), "", "no response to the startup command: %v", err)
	case h.Code == 0, h.Code == tpm.Code(tpm.RCInitialize) && name != config.StartupState: // it resumed, with its volatile state
	case name == config.StartupState:
		x.add(Warning, "startup = \"state\"", `use "clear": a TPM without a saved state cannot resume`, "refused by the TPM: %v", tpm.Result(h.Code))
	default:
		x.add(Warning, fmt.Sprintf("startup = %q", name), "", "refused by the TPM: %v", tpm.Result(h.Code))
	}
}
