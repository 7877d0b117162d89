package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
)

// notProfiles are files in the directories of profiles that describe no TPM.
var notProfiles = []string{"default", filepath.Base(strings.TrimSuffix(config.HostFile, ".toml")), "store"}

// stopped returns the TPMs that are off: those with a profile, or with a state in the directory of
// the units' states.
func (s *snapshot) stopped(ctx context.Context, on []TPM) (off []TPM) {
	known := map[string]bool{}
	for _, t := range on {
		if (t.Manager == "systemd" || t.Manager == "manual") && (t.system() || t.UID == s.UID) { // otherwise the name is only a claim
			known[t.Name] = true
		}
	}
	var names []string
	add := func(name string) {
		if !known[name] {
			known[name] = true
			names = append(names, name)
		}
	}
	for _, dir := range s.Profiles {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), ".toml")
			if ok && !e.IsDir() && !slices.Contains(notProfiles, name) {
				add(name)
			}
		}
	}
	states, _ := os.ReadDir(s.States)
	for _, e := range states {
		if e.IsDir() && e.Name() != "marks" {
			add(e.Name())
		}
	}
	off = make([]TPM, len(names))
	each(len(names), func(i int) {
		off[i] = TPM{Name: names[i], Manager: "systemd", Unit: "swtpm@" + names[i] + ".service", State: stateStopped}
		if s.Units == nil { // there is no service manager that could start it
			off[i].Manager, off[i].Unit = "manual", ""
		}
		full, err := within(ctx, func(context.Context) (TPM, error) {
			t := off[i]
			if t.cfg, _ = profileOf(t.Name, ""); t.cfg != nil {
				t.Version = t.cfg.TPM.String()
				readState(&t, t.cfg)
			}
			return t, nil
		})
		if err == nil {
			off[i] = full
		}
	})
	s.examine(ctx, off)
	return off
}

// examine asks the doctor about TPMs that are off.
func (s *snapshot) examine(ctx context.Context, off []TPM) {
	if s.Doctor == nil || len(off) == 0 {
		return
	}
	parts := min(len(off), runtime.NumCPU())
	each(parts, func(part int) {
		var names []string
		for i := part; i < len(off); i += parts {
			names = append(names, off[i].Name)
		}
		verdicts := s.Doctor(ctx, names)
		for i := part; i < len(off); i += parts {
			off[i].Verdict = verdicts[off[i].Name]
		}
	})
}

// doctorTime is how long the doctor may take for a part of the TPMs that are off.
const doctorTime = 10 * time.Second

// doctor runs swtpm doctor on profiles and returns the verdicts.
func doctor(ctx context.Context, names []string) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, daemonPath(), append([]string{"doctor", "--json"}, names...)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	_ = cmd.Run() // 1 if one would not start
	return verdictsOf(out.Bytes())
}

// verdictsOf returns the verdicts in the JSON of swtpm doctor, by profile. They include the warnings
// about the start, such as an old state.
func verdictsOf(out []byte) map[string]string {
	verdicts := map[string]string{}
	var reports []struct {
		Profile  string `json:"profile"`
		Starts   bool   `json:"starts"`
		Findings []struct {
			Check    string `json:"check"`
			Severity string `json:"severity"`
			What     string `json:"what"`
		} `json:"findings"`
	}
	if json.Unmarshal(out, &reports) != nil {
		return verdicts
	}
	for _, r := range reports {
		verdict := "would not start"
		if r.Starts {
			verdict = "would start"
		}
		for _, f := range r.Findings {
			if r.Starts && f.Severity == "warning" && f.Check == "start" {
				verdict += "; " + f.What
				break
			}
			if !r.Starts && f.Severity == "error" {
				verdict += ": " + f.What
				break
			}
		}
		verdicts[r.Profile] = verdict
	}
	return verdicts
}

// daemonPath returns the path of swtpm: next to this program, or where make install puts it.
func daemonPath() string {
	self, err := os.Executable()
	if err != nil {
		return "swtpm"
	}
	dir := filepath.Dir(self)
	for _, path := range []string{filepath.Join(dir, "swtpm"), filepath.Join(dir, "../../bin/swtpm")} {
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path
		}
	}
	return "swtpm"
}
