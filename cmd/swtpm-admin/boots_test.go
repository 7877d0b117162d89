package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/config"
)

// TestBootsNone checks the errors without a ledger: only with a profile the setting is known.
func TestBootsNone(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	for state, want := range map[string]string{
		"dir=" + dir:     "boots: " + dir + ": no boot recorded; a ledger begins at the next power-on, unless",
		"dir=" + missing: "boots: state directory: open " + missing + ": no such file or directory; correct --tpmstate",
	} {
		o := &bootsOptions{tpmstate: state}
		if err := o.run([]string{"list"}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", state, err, want)
		}
	}
	o := &bootsOptions{cfg: &config.Config{}}
	o.cfg.Ledger.Keep = config.KeepNone
	if err := o.none(dir); !strings.Contains(err.Error(), "boots are not recorded") {
		t.Errorf("with a profile: %v", err)
	}
}
