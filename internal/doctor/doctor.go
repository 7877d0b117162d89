// Package doctor says why a TPM would not start, and what to do about it. It
// looks at all that a start needs, as the user who would start it, and touches
// nothing: it makes, changes and removes no file, holds no lock, connects to
// nobody.
//
// Where it can it asks the code that will decide, through a look that leaves no
// trace: io/listen, daemon and nv/dir have one, and the state is started in
// memory. So the two agree. What it cannot know is told as a note.
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

// Severity says what a finding means for the start.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // the TPM does not start, or cannot be used
	Warning Severity = "warning" // it starts, and something is wrong
	Note    Severity = "note"    // worth to know, or what could not be looked at
)

// Finding is one thing that the doctor has found.
type Finding struct {
	Check    string   `json:"check"` // the row of the table
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	Where    string   `json:"where,omitempty"`  // file, address, option, …
	Advice   string   `json:"advice,omitempty"` // what to do; "" if nothing is to be done
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

// Report is what the doctor has found about one TPM.
type Report struct {
	Profile  string    `json:"profile"` // as the caller names it
	Starts   bool      `json:"starts"`  // no finding is an Error
	Findings []Finding `json:"findings"`
}

func (r *Report) add(f Finding) {
	r.Findings = append(r.Findings, f)
	r.Starts = r.Starts && f.Severity != Error
}

// newReport returns the report of a TPM about which nothing is known yet.
func newReport(profile string) Report {
	return Report{Profile: profile, Starts: true, Findings: []Finding{}}
}

// Refused returns the report of a profile, or a classic command line, that the
// configuration refuses with err.
func Refused(profile string, err error) Report {
	r := newReport(profile)
	refusals(&r, err)
	return r
}

// refusals adds a finding for each error that is joined in err.
func refusals(r *Report, err error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			refusals(r, e)
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
		if what, want, ok := strings.Cut(f.What, "; "); ok { // the advice of profiles is behind it
			f.What, f.Advice = what, want
		}
	}
	r.add(f)
}

// Engine is libtpms, as the doctor needs it.
type Engine struct {
	emul.Engine
	Version string // of the library

	// Profile returns the algorithm profile that the configuration names, as
	// a start would read it. It must stay on the thread that calls it.
	Profile func(*config.Config) (string, error)
}

// checks are what the doctor looks at, in the order in which a start would fail.
// Each adds its findings under its name.
var checks = []struct {
	name string
	run  func(*exam)
}{
	{"config", (*exam).config},
	{"log", (*exam).log},
	{"libtpms", (*exam).library},
	{"control", (*exam).control},
	{"data", (*exam).data},
	{"key", (*exam).fileKey},
	{"migration-key", (*exam).migrationKey},
	{"algorithm-profile", (*exam).algorithms},
	{"pid", (*exam).pid},
	{"pcap", (*exam).pcap},
	{"metrics", (*exam).metrics},
	{"directory", (*exam).place},
	{"space", (*exam).space},
	{"lock", (*exam).lock},
	{"state", (*exam).state},
	{"start", (*exam).start},
}

// afterwards are looked at as the user who calls: they need more rights, or those of
// the process before it becomes the TPM's user.
var afterwards = []struct {
	name string
	run  func(*exam)
}{
	{"device", (*exam).device},
	{"apparmor", (*exam).apparmor},
	{"selinux", (*exam).selinux},
	{"kernel-log", (*exam).kernelLog},
}

// exam is one TPM while it is looked at.
type exam struct {
	ctx    context.Context
	cfg    *config.Config
	engine Engine
	root   string // where /sys, /proc and /etc are; "" but in tests
	report Report
	check  string   // the name of the check that runs
	later  []func() // what the caller finds out after the checks
	blind  bool     // the checks run as another user than the TPM's: what rights it has is not known

	uid        int // who the TPM is
	keys       seal.Keys
	keysKnown  bool   // keys has all that a start would have
	profile    string // the algorithm profile; "" if there is none
	noState    bool   // the state cannot be looked at
	emptyState bool   // there is no TPM yet
	bad        []int
}

// Examine looks at the TPM that cfg describes; profile is its name. It takes the
// keys into memory: call sandbox.Harden first.
func Examine(ctx context.Context, profile string, cfg *config.Config, e Engine) Report {
	x := &exam{ctx: ctx, cfg: cfg, engine: e, report: newReport(profile)}
	x.examine()
	return x.report
}

func (x *exam) examine() {
	if x.cfg.Sandbox.Chroot != "" {
		x.check = "chroot"
		x.newRoot()
		return
	}
	look := func() {
		x.uid = os.Geteuid()
		for _, c := range checks {
			x.check = c.name
			c.run(x)
		}
		x.closeKeys()
	}
	if err := sandbox.As(x.cfg.Sandbox.User, look); err != nil {
		x.check = "user"
		x.user(err)
		look()
	}
	for _, f := range x.later {
		f()
	}
	for _, c := range afterwards {
		x.check = c.name
		c.run(x)
	}
}

// add adds a finding of the check that runs, and returns its number.
func (x *exam) add(s Severity, where, advice, format string, args ...any) int {
	if x.blind && advice == moreRights {
		s, advice = Note, "look again as root, who can tell what the TPM's user may do"
	}
	x.report.add(Finding{Check: x.check, Severity: s, What: fmt.Sprintf(format, args...), Where: where, Advice: advice})
	return len(x.report.Findings) - 1
}

// complete adds to finding number n what the caller finds out; as the TPM's user
// it might not be seen.
func (x *exam) complete(n int, text func() string) {
	x.later = append(x.later, func() { x.report.Findings[n].What += text() })
}

// failed tells whether one of the named checks has found an Error.
func (x *exam) failed(checks ...string) bool {
	for _, f := range x.report.Findings {
		for _, c := range checks {
			if f.Check == c && f.Severity == Error {
				return true
			}
		}
	}
	return false
}
