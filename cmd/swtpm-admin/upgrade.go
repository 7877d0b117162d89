package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/fleet"
	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/program"
)

// upgradeOptions are the options of the verb.
type upgradeOptions struct {
	all, dryRun, asJSON, trigger, noSelftest bool
	jobs                                     int
}

func upgradeVerb(f *pflag.FlagSet) action {
	o := &upgradeOptions{}
	f.BoolVar(&o.all, "all", false, "restart all TPMs that need it")
	f.BoolVar(&o.dryRun, "dry-run", false, "print what would be done, and do nothing")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	f.IntVar(&o.jobs, "jobs", 1, "restart `N` TPMs at the same time; default: one after the other")
	f.BoolVar(&o.noSelftest, "no-selftest", false, "do not check the installed libraries first")
	f.BoolVar(&o.trigger, "trigger", false, "print how many TPMs need a restart, restart them only if host.toml has [upgrade] automatic = true, and always exit with code 0")
	return func(ctx context.Context, patterns []string) error {
		err := fleet.CheckPatterns(patterns)
		switch {
		case err != nil:
		case o.trigger && (o.all || len(patterns) > 0):
			err = errors.New("upgrade: --trigger takes neither --all nor names")
		case o.trigger:
			return o.runTrigger(ctx)
		case !o.all && len(patterns) == 0:
			err = errors.New("upgrade: give --all or the names of TPMs")
		case o.all && len(patterns) > 0:
			err = errors.New("upgrade: give either --all or names")
		case o.jobs < 1:
			err = errors.New("upgrade: --jobs must be at least 1")
		}
		if err != nil {
			return &program.ExitError{Code: 2, Err: err}
		}
		return o.run(ctx, patterns)
	}
}

// run restarts the TPMs that match the patterns and need it.
func (o *upgradeOptions) run(ctx context.Context, patterns []string) error {
	host, stop := openHost(ctx)
	defer stop()
	host.Doctor = nil
	chosen := fleet.Select(first(host.Collect(ctx)), patterns)
	if len(chosen) == 0 && len(patterns) > 0 {
		return fmt.Errorf("upgrade: no TPM matches %s; see swtpm list", strings.Join(patterns, " "))
	}
	u := fleet.Upgrade{Host: host, Jobs: o.jobs, Progress: o.progress()}
	plan := u.Plan(ctx, chosen)
	if o.dryRun {
		return o.show(plan, nil)
	}
	if len(plan.Restart) > 0 && !o.noSelftest {
		if err := checkLibraries(ctx); err != nil {
			return err
		}
	}
	result := u.Run(ctx, plan.Restart)
	if err := o.show(plan, &result); err != nil {
		return err
	}
	if len(result.Failed) > 0 || len(result.Left) > 0 || len(patterns) > 0 && len(plan.Cannot) > 0 {
		return &program.ExitError{Code: 1, Silent: true}
	}
	return nil
}

func first[T, U any](v T, _ U) T { return v }

// checkLibraries runs the self-test of the installed libraries, because a TPM with a flawed new
// library is worse than a TPM with the old one.
func checkLibraries(ctx context.Context) error {
	r, err := runSelftest(ctx)
	if err != nil {
		return fmt.Errorf("upgrade: no TPM was restarted: %w", err)
	}
	if !r.OK {
		r.print()
		return errors.New("upgrade: no TPM was restarted: the installed libraries give wrong answers")
	}
	return nil
}

// progress returns a function that prints the progress: on a terminal it rewrites one line.
func (o *upgradeOptions) progress() func(done, all int, t *fleet.TPM, err error) {
	if o.asJSON || !terminal(os.Stderr) {
		return nil
	}
	return func(done, all int, t *fleet.TPM, err error) {
		const clearLine = "\r\x1b[K"
		fmt.Fprintf(os.Stderr, "%s%d of %d TPMs restarted: %s", clearLine, done, all, program.PrintableLine(t.Name))
		if done == all || err != nil {
			fmt.Fprint(os.Stderr, "\n")
		}
	}
}

// show prints the plan, or what was done if r is not nil.
func (o *upgradeOptions) show(p fleet.Plan, r *fleet.Result) error {
	if o.asJSON {
		b, err := json.MarshalIndent(struct {
			Plan   fleet.Plan    `json:"plan"`
			Result *fleet.Result `json:"result,omitempty"`
		}{p, r}, "", "  ")
		if err == nil {
			fmt.Println(string(b))
		}
		return err
	}
	w := program.PrintableWriter(os.Stdout)
	for _, c := range p.Cannot {
		fmt.Fprintf(w, "%s: cannot be restarted under its guest: %s\n    %s\n", program.PrintableLine(c.TPM.Name), c.Why, c.Help)
	}
	if r == nil {
		for _, t := range p.Restart {
			fmt.Fprintf(w, "%s: would be restarted: %s\n", program.PrintableLine(t.Name), strings.Join(t.Reasons, ", "))
		}
		fmt.Fprintf(w, "%d would be restarted, %d cannot be, %d need no restart.\n", len(p.Restart), len(p.Cannot), p.Fine)
		return nil
	}
	for _, f := range r.Failed {
		fmt.Fprintf(w, "%s\n", program.PrintableLine(f))
	}
	fmt.Fprintf(w, "%d restarted, %d cannot be, %d need no restart.\n", len(r.Restarted), len(p.Cannot), p.Fine)
	if len(r.Failed) > 0 {
		fmt.Fprintf(w, "Stopped: %d TPMs were not restarted and keep running as they are. Find the cause with journalctl --unit 'swtpm@NAME', then continue with swtpm upgrade --all.\n", len(r.Left))
	}
	return nil
}

// runTrigger implements --trigger, which the package manager runs after it has replaced a library.
// It only prints its errors, because they must not make the installation of another package fail.
func (o *upgradeOptions) runTrigger(ctx context.Context) error {
	policy, err := config.LoadHost(config.HostFile)
	if err != nil {
		fmt.Printf("swtpm: %s\n", program.PrintableLine(err.Error()))
	}
	host, stop := openHost(ctx)
	defer stop()
	host.Doctor = nil
	u := fleet.Upgrade{Host: host}
	plan := u.Plan(ctx, first(host.Collect(ctx)))
	n := len(plan.Restart) + len(plan.Cannot)
	if n == 0 {
		return nil
	}
	needs := fmt.Sprintf("%d TPMs need", n)
	if n == 1 {
		needs = "1 TPM needs"
	}
	fmt.Printf("swtpm: %s a restart to use the new libraries; %d can be restarted under a running guest.\n", needs, len(plan.Restart))
	if err := checkLibraries(ctx); err != nil {
		fmt.Printf("swtpm: %s\n", program.PrintableLine(err.Error()))
		return nil
	}
	if !policy.Upgrade.Automatic {
		fmt.Println("swtpm: restart them with: swtpm upgrade --all")
		return nil
	}
	result := u.Run(ctx, plan.Restart)
	return o.show(plan, &result)
}
