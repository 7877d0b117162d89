package libvirt_test

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
)

// TestHostPolicy checks that the boot ledger and the directory of the metrics can be set for all
// TPMs of a host, also for those that libvirt starts without a profile. The guest is the firmware:
// it measures into PCRs 0 to 7 and looks for a disk.
func TestHostPolicy(t *testing.T) {
	dir := inside(t)
	metrics := filepath.Join(dir, "metrics")
	if err := os.Mkdir(metrics, 0o755); err != nil {
		t.Fatal(err)
	}
	own(t, metrics)
	t.Cleanup(func() { _ = os.Remove(config.HostFile) })
	for _, g := range []*guest{
		{name: "host20", uuid: "8c0a5a3e-0000-4000-8000-000000000021", version: "2.0", model: "tpm-tis"},
		{name: "host12", uuid: "8c0a5a3e-0000-4000-8000-000000000022", version: "1.2", model: "tpm-tis"},
	} {
		t.Run(g.name, func(t *testing.T) {
			hostPolicy(t, "none", metrics)
			g.define(t, dir)
			virsh(t, "start", g.name)
			g.running(t)
			if out, err := g.boots("list"); err == nil || !strings.Contains(out, "no boot recorded") {
				t.Errorf("swtpm boots with [ledger] keep = \"none\": %v\n%s", err, out)
			}
			virsh(t, "destroy", g.name)
			g.gone(t)

			hostPolicy(t, "boots", metrics)
			for boot := 1; boot <= 2; boot++ {
				virsh(t, "start", g.name)
				g.running(t)
				g.measured(t, boot)
				g.published(t, metrics)
				virsh(t, "destroy", g.name)
				g.gone(t)
			}
			virsh(t, "undefine", g.name)
		})
	}
}

// hostPolicy writes the policy of the host.
func hostPolicy(t *testing.T, keep, metrics string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(config.HostFile), 0o755); err != nil {
		t.Fatal(err)
	}
	text := "[ledger]\nkeep = \"" + keep + "\"\n[metrics]\ndirectory = \"" + metrics + "\"\n"
	if err := os.WriteFile(config.HostFile, []byte(text), 0o644); err != nil { // swtpm runs as tss
		t.Fatal(err)
	}
}

// own gives a file to the user of swtpm.
func own(t *testing.T, path string) {
	t.Helper()
	tss, err := user.Lookup("tss")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(tss.Uid)
	gid, _ := strconv.Atoi(tss.Gid)
	if err := os.Chown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
}

// boots runs a command of swtpm boots on the guest's TPM.
func (g *guest) boots(verb string, args ...string) (string, error) {
	args = append([]string{"boots", verb, "--tpmstate", "dir=" + g.state()}, args...)
	out, err := exec.Command("swtpm", args...).CombinedOutput()
	return string(out), err
}

// measured waits until the boot with this number has the separator of PCR 7, which ends the
// measurements of the firmware.
func (g *guest) measured(t *testing.T, boot int) {
	t.Helper()
	out, err := "", error(nil)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		out, err = g.boots("show", strconv.Itoa(boot))
		if err == nil && strings.Contains(out, "separator") {
			return
		}
	}
	t.Fatalf("boot %d has no measurements of the firmware: %v\n%s", boot, err, out)
}

// published waits until the metrics of the guest's TPM are in their directory.
func (g *guest) published(t *testing.T, metrics string) {
	t.Helper()
	name := strings.ReplaceAll(strings.TrimPrefix(g.state(), "/"), "/", "-") + ".prom"
	text := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		b, _ := os.ReadFile(filepath.Join(metrics, name)) // not there at once
		if text = string(b); strings.Contains(text, `tpm="`+g.version+`"`) {
			return
		}
	}
	t.Fatalf("%s has no metrics of the TPM: %q", name, text)
}
