package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHostExample checks that the example says what holds without the file.
func TestHostExample(t *testing.T) {
	h, err := LoadHost("../../examples/host.toml")
	if err != nil || !cmp.Equal(h, defaultHost()) {
		t.Errorf("%v, %s", err, cmp.Diff(defaultHost(), h))
	}
	h, err = LoadHost(filepath.Join(t.TempDir(), "none"))
	if err != nil || !cmp.Equal(h, defaultHost()) {
		t.Errorf("missing file: %v, %s", err, cmp.Diff(defaultHost(), h))
	}
}

// TestHostTOML checks that what show prints is read again as it was.
func TestHostTOML(t *testing.T) {
	h := defaultHost()
	h.Rollback = Rollback{RollbackRefuse, "/marks"}
	h.Metrics.Directory = "/m"
	h.Ledger.Keep = KeepBoots
	h.Minimum = Minimum{true, SeccompKill, LandlockRequire}
	h.Upgrade.Automatic = true
	again, err := parseHost("f", h.TOML())
	if err != nil || !cmp.Equal(h, again) {
		t.Errorf("%v, %s", err, cmp.Diff(h, again))
	}
	want := `{"rollback":{"policy":"refuse","marks":"/marks"},"metrics":{"directory":"/m"},"ledger":{"keep":"boots"},"minimum":{"durability":"full","seccomp":"kill","landlock":"require"},"upgrade":{"automatic":true}}`
	if got := h.JSON(); got != want {
		t.Errorf("JSON = %s, want %s", got, want)
	}
}

// TestHostErrors checks the messages about mistakes in host.toml.
func TestHostErrors(t *testing.T) {
	for src, want := range map[string]string{
		"[rolback]\n":                    `f:1:2: [rolback]: unknown table; did you mean "rollback"?`,
		"[rollback]\npolcy = \"warn\"\n": `f:2:1: [rollback] polcy: unknown key; did you mean "policy"?`,
		"[rollback]\npolicy = \"on\"\n":  `f:2:10: [rollback] policy: invalid value "on"; must be "warn", "refuse" or "off"`,
		"[rollback]\nmarks = \"m\"\n":    `f:2:9: [rollback] marks: invalid value "m"; must be an absolute path`,
		"[minimum]\nseccomp = 1\n":       `f:2:11: [minimum] seccomp: invalid value 1; must be`,
		"tpm = \"2.0\"\n":                `f:1:1: tpm: unknown key`,
		"[rollback\n":                    `f:`,
		"[ledger]\nkeep = \"all\"\n":     `f:2:8: [ledger] keep: invalid value "all"; must be "profile", "boots" or "none"`,
	} {
		h, err := parseHost("f", src)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", src, err, want)
		}
		if !cmp.Equal(h, defaultHost()) {
			t.Errorf("%q: %s", src, cmp.Diff(defaultHost(), h))
		}
	}
	file := filepath.Join(t.TempDir(), "host.toml")
	if err := os.WriteFile(file, make([]byte, maxProfile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadHost(file); err == nil {
		t.Error("a file that is too large is accepted")
	}
}

// TestApplyHost checks which settings of a TPM the policy of the host changes.
func TestApplyHost(t *testing.T) {
	c := defaults()
	if changed := c.ApplyHost(defaultHost(), "vm1"); len(changed) > 0 || !cmp.Equal(c, defaults()) {
		t.Errorf("defaults change %q", changed)
	}
	c.State.Relaxed, c.Sandbox.Seccomp, c.Sandbox.Landlock = true, SeccompNone, LandlockOff
	h := defaultHost()
	h.Metrics.Directory = "/m"
	h.Ledger.Keep = KeepNone
	h.Minimum = Minimum{true, SeccompLog, LandlockBestEffort}
	changed := c.ApplyHost(h, "a/b")
	if len(changed) != 5 || c.Ledger.Keep != KeepNone || c.State.Relaxed || c.Sandbox.Seccomp != SeccompLog || c.Sandbox.Landlock != LandlockBestEffort || c.Metrics.File != "/m/a-b.prom" {
		t.Errorf("%q, %+v", changed, c)
	}
	if changed := c.ApplyHost(h, "a/b"); len(changed) > 0 {
		t.Errorf("again: %q", changed)
	}
	h.Ledger.Keep = KeepBoots
	if changed := c.ApplyHost(h, "a/b"); len(changed) != 1 || c.Ledger.Keep != KeepBoots {
		t.Errorf("ledger: %q, %+v", changed, c.Ledger)
	}
}

// FuzzHost checks that a policy that is printed and parsed again is the same.
func FuzzHost(f *testing.F) {
	src, err := os.ReadFile("../../examples/host.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(src))
	f.Fuzz(func(t *testing.T, src string) {
		if h, err := parseHost("f", src); err == nil {
			if again, err := parseHost("f", h.TOML()); err != nil || !cmp.Equal(h, again) {
				t.Errorf("%v, %s", err, cmp.Diff(h, again))
			}
		}
	})
}
