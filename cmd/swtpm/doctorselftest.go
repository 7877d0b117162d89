package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/swtpm-go/swtpm/internal/doctor"
)

// selftestFindings runs the self-test of the installed libraries in adminProgram, and
// returns a finding for each wrong answer.
func selftestFindings() []doctor.Finding {
	failed := func(err error) []doctor.Finding {
		return []doctor.Finding{{Check: "selftest", Severity: doctor.Note, What: fmt.Sprintf("the libraries were not checked: %v", err)}}
	}
	self, err := os.Executable()
	if err != nil {
		return failed(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return failed(err)
	}
	defer r.Close()
	p, err := os.StartProcess(self, []string{"swtpm", "selftest", "--json"}, &os.ProcAttr{Files: []*os.File{nil, w, os.Stderr}})
	_ = w.Close()
	if err != nil {
		return failed(err)
	}
	const most = 1 << 20
	out, readErr := io.ReadAll(io.LimitReader(r, most))
	if _, err := p.Wait(); err != nil || readErr != nil {
		return failed(fmt.Errorf("swtpm selftest: %v, %v", err, readErr))
	}
	var report struct {
		Results []struct {
			Check, Flaw, Error string
			OK                 bool
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return failed(fmt.Errorf("swtpm selftest: %w", err))
	}
	var findings []doctor.Finding
	for _, c := range report.Results {
		if c.OK {
			continue
		}
		f := doctor.Finding{Check: "selftest", Severity: doctor.Warning, Where: c.Check, What: "wrong answer: " + c.Error,
			Advice: "install another build of libtpms or OpenSSL"}
		if c.Flaw != "" {
			f.Advice += "; see " + c.Flaw
		}
		findings = append(findings, f)
	}
	return findings
}
