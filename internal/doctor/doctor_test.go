package doctor

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// onlyTPM2 is a library without TPM 1.2.
type onlyTPM2 struct{ emul.Engine }

func (onlyTPM2) Lock()   {}
func (onlyTPM2) Unlock() {}

func (onlyTPM2) Choose(v tpm.Version) error {
	if v == tpm.V12 {
		return errors.New("no such TPM")
	}
	return nil
}

// TestLibrary checks that a version that libtpms does not support is an error, and that the
// state is not read then.
func TestLibrary(t *testing.T) {
	for version, starts := range map[tpm.Version]bool{tpm.V12: false, tpm.V20: true} {
		cfg := &config.Config{TPM: version, Log: config.Log{FD: -1}, PID: config.PID{FD: -1}, Pcap: config.Pcap{FD: -1}}
		cfg.State.Location = nv.Location{Kind: nv.Directory, Path: t.TempDir()}
		x := &examination{ctx: t.Context(), cfg: cfg, engine: Engine{Engine: onlyTPM2{}, Version: "0.9.2"}, report: newReport("vm1")}
		x.check = "libtpms"
		x.library()
		x.state()
		var text []string
		for _, f := range x.report.Findings {
			text = append(text, f.String())
		}
		all := strings.Join(text, "\n")
		if x.report.Starts != starts || starts == strings.Contains(all, "error: libtpms: libtpms 0.9.2: does not support TPM 1.2") || starts != strings.Contains(all, "a new TPM") {
			t.Errorf("TPM %s: starts %v\n%s", version, x.report.Starts, all)
		}
	}
}

// TestRefused checks that errors of the configuration become findings.
func TestRefused(t *testing.T) {
	two := errors.Join(
		&config.ProfileError{File: "a.toml", Line: 3, Col: 1, Key: "[log] colour", Text: "unknown key; did you mean \"level\"?"},
		errors.New("two\nlines"))
	r := Refused("a", two)
	want := []string{
		`error: profile: a.toml:3:1: [log] colour: unknown key; did you mean "level"?`,
		"error: profile: two; lines",
	}
	if r.Starts || len(r.Findings) != 2 || r.Findings[0].String() != want[0] || r.Findings[1].String() != want[1] {
		t.Errorf("Refused = %+v, want %q", r, want)
	}
}

// TestStarts checks that an error about the state becomes a warning if a backup is used.
func TestStarts(t *testing.T) {
	x := &examination{report: newReport("vm1")}
	x.bad = append(x.bad, x.add(Error, "permall", "", "damaged"))
	if x.report.Starts {
		t.Error("starts with an error")
	}
	x.startSucceeded([]string{"the backup is in use"})
	if !x.report.Starts || x.report.Findings[0].Severity != Warning || x.report.Findings[1].Severity != Note {
		t.Errorf("%+v", x.report)
	}
	x.add(Error, "lock", "", "in use")
	x.startSucceeded(nil)
	if x.report.Starts {
		t.Error("starts with another error")
	}
}

// TestStartRefused checks the finding for a state that the policy refuses: libtpms is not the
// cause, and the remedy ends with the command.
func TestStartRefused(t *testing.T) {
	x := &examination{cfg: &config.Config{}, engine: Engine{Version: "0.9.2"}, report: newReport("vm1")}
	x.check = "start"
	x.cfg.State.Location = nv.Location{Kind: nv.Directory, Path: "/s"}
	err := &emul.RollbackError{Finding: generation.ErrOld, Advice: "run: swtpm state accept --tpmstate backend-uri=dir:///s", Result: tpm.RCFailure}
	x.startFailed(fmt.Errorf("INIT: %w", err))
	x.startFailed(errors.New("bad"))
	for n, want := range []string{
		`the rollback policy of this host, "refuse", refuses the state: old state`, "the TPM does not start with libtpms 0.9.2: bad",
	} {
		if got := x.report.Findings[n].String(); !strings.Contains(got, want) || n == 0 && (strings.Contains(got, "TPM_RESULT") || !strings.HasSuffix(strings.TrimSpace(got), "backend-uri=dir:///s")) {
			t.Errorf("finding %d: %q, want %q", n, got, want)
		}
	}
	if text := err.Error(); !strings.HasSuffix(text, err.Advice) || !errors.Is(err, tpm.RCFailure) || !errors.Is(err, generation.ErrOld) {
		t.Errorf("the error is %q, want the command at its end", text)
	}
}
