package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/pflag"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/selftest"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/program"
)

// workerName is the argument with which this program runs the checks. The verb starts it as a
// separate process, because a flaw may end that; the verb then names the check.
const workerName = "selftest-worker"

// worker runs the checks and prints a JSON value for each step: the name of a check that
// begins, or the result of one that ended.
func worker() error {
	m, stop, err := selftest.NewMachine(libtpms.Engine())
	if err != nil {
		return err
	}
	defer stop()
	out := json.NewEncoder(os.Stdout)
	return selftest.Run(m, func(name string) { _ = out.Encode(name) }, func(r selftest.Result) { _ = out.Encode(r) })
}

// report is the JSON of the verb.
type report struct {
	Libtpms string            `json:"libtpms"` // version of the library that was checked
	OK      bool              `json:"ok"`
	Results []selftest.Result `json:"results"`
}

func selftestVerb(f *pflag.FlagSet) action {
	asJSON := f.Bool("json", false, "print JSON")
	return func(ctx context.Context, _ []string) error {
		r, err := runSelftest(ctx)
		if err != nil {
			return err
		}
		if *asJSON {
			text, err := json.MarshalIndent(r, "", "  ")
			if err != nil {
				return err
			}
			fmt.Println(string(text))
		} else {
			r.print()
		}
		if !r.OK {
			return &program.ExitError{Code: 1, Silent: true}
		}
		return nil
	}
}

// runSelftest runs the checks in a separate process.
func runSelftest(ctx context.Context) (*report, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, workerName)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, failed := cmd.Output()
	r := &report{Libtpms: libtpms.Version(), OK: true}
	running := ""
	for line := range strings.Lines(string(out)) {
		if json.Unmarshal([]byte(line), &running) == nil {
			continue
		}
		var result selftest.Result
		if err := json.Unmarshal([]byte(line), &result); err != nil {
			return nil, fmt.Errorf("self-test: unexpected output %q: %w", line, err)
		}
		running = ""
		r.add(result)
	}
	if exit, ok := errors.AsType[*exec.ExitError](failed); ok && running != "" {
		r.add(selftest.Result{Check: running, Error: fmt.Sprintf("the library ended the process: %v", exit.ProcessState)})
	} else if failed != nil {
		return nil, fmt.Errorf("self-test: %w: %s", failed, strings.TrimSpace(stderr.String()))
	}
	return r, nil
}

func (r *report) add(result selftest.Result) {
	r.Results = append(r.Results, result)
	r.OK = r.OK && result.OK
}

// print writes the failed checks and a summary.
func (r *report) print() {
	wrong := 0
	for _, c := range r.Results {
		if c.OK {
			continue
		}
		wrong++
		flaw := ""
		if c.Flaw != "" {
			flaw = " (see " + c.Flaw + ")"
		}
		fmt.Printf("%s: %s%s\n", c.Check, program.PrintableLine(c.Error), flaw)
	}
	if wrong > 0 {
		fmt.Printf("libtpms %s: %d of %d answers are wrong. Do not start TPMs with this library; install another build of libtpms or OpenSSL.\n",
			r.Libtpms, wrong, len(r.Results))
		return
	}
	fmt.Printf("libtpms %s: all %d answers are right.\n", r.Libtpms, len(r.Results))
}
