// Package doctor reports why a TPM would not start, and what to do about it. It checks
// everything that a start needs, as the TPM's user, and changes nothing: it creates,
// changes and removes no file, holds no lock, and makes no connection.
//
// Where possible, it uses the code of the start: io/listen, daemon and nv/dir have
// functions without side effects for it, and the state is started in memory. Therefore
// the report agrees with the start. Checks that are not possible are reported as notes.
package doctor

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/sandbox"
	"github.com/swtpm-go/swtpm/internal/seal"
)

// Severity is the effect of a finding on the start.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // the TPM does not start, or is not usable
	Warning Severity = "warning" // the TPM starts, but something is wrong
	Note    Severity = "note"    // information, or a check that was not possible
)

// Finding is one result of a check.
type Finding struct {
	Check    string   `json:"check"` // the name of the check
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	Where    string   `json:"where,omitempty"`  // file, address, option, …
	Advice   string   `json:"advice,omitempty"` // what to do; "" for nothing
}

// String returns the finding in one line.
func (f Finding) String() string {
	s := fmt.Sprintf("%s: %s: ", f.Severity, f.Check)
	if f.Where != "" {
		s += f.Where + ": "
	}
	s += f.What
	if f.Advice != "" {
		s += "; " + f.Advice
	}
	return strings.ReplaceAll(s, "\n", "; ")
}

// Report is the result for one TPM.
type Report struct {
	Profile  string    `json:"profile"` // the name that the caller uses
	Starts   bool      `json:"starts"`  // no finding is an Error
	Findings []Finding `json:"findings"`
}

func (r *Report) add(f Finding) {
	r.Findings = append(r.Findings, f)
	r.Starts = r.Starts && f.Severity != Error
}

// newReport returns an empty report.
func newReport(profile string) Report {
	return Report{Profile: profile, Starts: true, Findings: []Finding{}}
}

// Refused returns the report for a profile or a classic command line with the configuration
// error err.
func Refused(profile string, err error) Report {
	r := newReport(profile)
	addErrors(&r, err)
	return r
}

// addErrors adds a finding for each error that is joined in err.
func addErrors(r *Report, err error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			addErrors(r, e)
		}
		return
	}
	f := Finding{Check: "profile", Severity: Error, What: err.Error()}
	if e, ok := err.(*config.ProfileError); ok {
		f.Where, f.What = e.File, e.Text
		if e.Line > 0 {
			f.Where = fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Col)
		}
		if e.Key != "" {
			f.What = e.Key + ": " + e.Text
		}
		if what, want, ok := strings.Cut(f.What, "; "); ok { // the advice follows the semicolon
			f.What, f.Advice = what, want
		}
	}
	r.add(f)
}

// Engine is the interface to libtpms.
type Engine struct {
	emul.Engine
	Version string // of the library

	// Profile returns the algorithm profile of the configuration. It must do its work on the
	// thread that calls it.
	Profile func(*config.Config) (string, error)

	// Rollback and Marks are what the emulator would use; Marks is not written.
	Rollback emul.RollbackPolicy
	Marks    emul.Marks
}

// checks are the checks that run as the TPM's user, in the order of the steps of a start.
// Each adds findings with its name.
var checks = []struct {
	name string
	run  func(*examination)
}{
	{"config", (*examination).config},
	{"log", (*examination).log},
	{"libtpms", (*examination).library},
	{"control", (*examination).control},
	{"data", (*examination).data},
	{"key", (*examination).fileKey},
	{"migration-key", (*examination).migrationKey},
	{"algorithm-profile", (*examination).algorithms},
	{"pid", (*examination).pid},
	{"pcap", (*examination).pcap},
	{"metrics", (*examination).metrics},
	{"directory", (*examination).location},
	{"space", (*examination).space},
	{"lock", (*examination).lock},
	{"state", (*examination).state},
	{"start", (*examination).start},
}

// checksAsCaller are the checks that run as the calling user, because they need more rights,
// or because a start performs the step before it changes the user.
var checksAsCaller = []struct {
	name string
	run  func(*examination)
}{
	{"device", (*examination).device},
	{"apparmor", (*examination).apparmor},
	{"selinux", (*examination).selinux},
	{"kernel-log", (*examination).kernelLog},
}

// examination is the state of the checks of one TPM.
type examination struct {
	ctx       context.Context
	cfg       *config.Config
	engine    Engine
	settings  Remedies // for remedies
	root      string   // prefix for /sys, /proc and /etc; "" except in tests
	report    Report
	check     string   // the name of the check that runs
	later     []func() // work after the checks, as the calling user
	wrongUser bool     // the checks do not run as the TPM's user, so that its rights are unknown

	uid        int // user id of the TPM
	keys       seal.Keys
	keysKnown  bool   // keys contains all keys of a start
	profile    string // the algorithm profile; "" if there is none
	noState    bool   // the state cannot be read, or libtpms does not support the TPM's version
	emptyState bool   // no TPM exists yet
	bad        []int  // indexes of findings about parts of the state
}

// Examine checks the TPM of cfg. profile is its name in the report, and s the form of the settings in
// remedies. The caller must call sandbox.Harden first, because Examine reads the keys into memory.
func Examine(ctx context.Context, profile string, cfg *config.Config, e Engine, s Remedies) Report {
	x := &examination{ctx: ctx, cfg: cfg, engine: e, settings: s, report: newReport(profile)}
	x.examine()
	return x.report
}

func (x *examination) examine() {
	if x.cfg.Sandbox.Chroot != "" {
		x.check = "chroot"
		x.chroot()
		return
	}
	runChecks := func() {
		x.uid = os.Geteuid()
		for _, c := range checks {
			x.check = c.name
			c.run(x)
		}
		x.closeKeys()
	}
	if err := sandbox.As(x.cfg.Sandbox.User, runChecks); err != nil {
		x.check = "user"
		x.user(err)
		runChecks()
	}
	for _, f := range x.later {
		f()
	}
	for _, c := range checksAsCaller {
		x.check = c.name
		c.run(x)
	}
}

// add adds a finding of the current check, and returns its index.
func (x *examination) add(s Severity, where, advice, format string, args ...any) int {
	if x.wrongUser && advice == moreRights {
		s, advice = Note, "run the doctor as root, which can check the rights of the TPM's user"
	}
	x.report.add(Finding{Check: x.check, Severity: s, What: fmt.Sprintf(format, args...), Where: where, Advice: advice})
	return len(x.report.Findings) - 1
}

// complete appends a text to finding n. It finds the text as the calling user, who may have
// more rights than the TPM's user.
func (x *examination) complete(n int, text func() string) {
	x.later = append(x.later, func() { x.report.Findings[n].What += text() })
}

// failed reports whether one of the named checks has added an Error.
func (x *examination) failed(checks ...string) bool {
	for _, f := range x.report.Findings {
		for _, c := range checks {
			if f.Check == c && f.Severity == Error {
				return true
			}
		}
	}
	return false
}
