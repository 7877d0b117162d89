package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/doctor"
	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/internal/program"
	"github.com/swtpm-go/swtpm/internal/sandbox"
)

// doctorVerb returns swtpm doctor, which checks profiles, or a classic command line after --.
func doctorVerb(f *pflag.FlagSet) action {
	asJSON := f.Bool("json", false, "print JSON")
	selftest := f.Bool("selftest", false, "also check the installed libtpms and libcrypto")
	instance := instanceFlag(f)
	return func(ctx context.Context, args []string) error {
		var reports []doctor.Report
		var libraries []doctor.Finding
		if *selftest {
			libraries = selftestFindings() // before the process gives up privileges
		}
		if f.ArgsLenAtDash() == 0 {
			cfg, err := config.ClassicElsewhere(args[0], args[1:], os.Getenv)
			if _, ok := errors.AsType[*config.HelpRequested](err); ok {
				return classicError(err)
			}
			reports = append(reports, examine(ctx, "command line", cfg, err, doctor.CommandLine))
		} else {
			for _, name := range args {
				cfg, err := load(name, *instance)
				reports = append(reports, examine(ctx, name, cfg, err, doctor.Profile))
			}
		}
		for i := range reports {
			reports[i].Findings = append(reports[i].Findings, libraries...)
		}
		write := printReports
		if *asJSON {
			write = printReportsJSON
		}
		if err := write(program.PrintableWriter(os.Stdout), reports); err != nil {
			return err
		}
		for _, r := range reports {
			if !r.Starts {
				return &program.ExitError{Code: 1, Silent: true}
			}
		}
		return nil
	}
}

// examine checks the TPM that cfg describes. If err is not nil, it reports err and ignores cfg.
func examine(ctx context.Context, name string, cfg *config.Config, err error, s doctor.Remedies) doctor.Report {
	var host []doctor.Finding
	if err == nil {
		n := applyHost(cfg, "")
		if n.err != nil {
			warnf("host policy ignored, defaults used: %v", n.err)
		}
		host = hostFindings(cfg, n)
	}
	if err == nil && cfg.Printing() != "" {
		err = fmt.Errorf("%s describes no TPM; leave it out", cfg.Printing())
	}
	if err == nil {
		err = sandbox.Harden() // from here on there may be keys in memory
	}
	if err != nil {
		return doctor.Refused(name, err)
	}
	log, err := openLog(config.Log{Given: true, File: "-", FD: -1}) // discards libtpms's messages: the findings contain them
	if err != nil {
		return doctor.Refused(name, err)
	}
	defer log.Close()
	var o emul.Options
	rollbackOptions(&o, cfg)
	if o.Marks != nil {
		o.Marks = readOnlyMarks{o.Marks}
	}
	r := doctor.Examine(ctx, name, cfg, doctor.Engine{
		Engine: libtpms.Engine(), Version: libtpms.Version(), Profile: readProfile, Rollback: o.Rollback, Marks: o.Marks,
	}, s)
	r.Findings = append(r.Findings, host...)
	return r
}

// hostFindings returns notes about the settings of the host: what they change, the policy for
// old states, and a missing directory of marks, without which an old copy of the whole state is not
// detected.
func hostFindings(cfg *config.Config, n hostNotes) (all []doctor.Finding) {
	note := func(where, advice, format string, args ...any) {
		all = append(all, doctor.Finding{Check: "host", Severity: doctor.Note, Where: where, What: fmt.Sprintf(format, args...), Advice: advice})
	}
	r := cfg.Host.Rollback
	if _, err := os.Stat(config.HostFile); err == nil && n.err == nil {
		note(config.HostFile, "", "[rollback] policy is %q, the marks are in %s", r.Policy, r.Marks)
		for _, text := range n.changed {
			note(config.HostFile, "", "%s", text)
		}
	}
	if _, err := os.Stat(r.Marks); errors.Is(err, fs.ErrNotExist) && r.Policy != config.RollbackOff && !cfg.State.Relaxed {
		note(r.Marks, "install -d -m 1733 "+r.Marks, "missing directory of the marks: an old copy of the whole state is not detected")
	}
	return all
}

// readOnlyMarks are marks that are not written.
type readOnlyMarks struct{ emul.Marks }

// Write does nothing.
func (readOnlyMarks) Write(generation.Mark) error { return nil }

// Move does nothing.
func (readOnlyMarks) Move(generation.Mark, string) error { return nil }

// printReports prints a line for each finding and one for each TPM.
func printReports(w io.Writer, reports []doctor.Report) error {
	for _, r := range reports {
		for _, f := range r.Findings {
			if _, err := fmt.Fprintf(w, "%s: %s\n", r.Profile, f); err != nil {
				return err
			}
		}
		verdict := "would start"
		if !r.Starts {
			verdict = "would not start"
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", r.Profile, verdict); err != nil {
			return err
		}
	}
	return nil
}

func printReportsJSON(w io.Writer, reports []doctor.Report) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(reports)
}
