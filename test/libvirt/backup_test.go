package libvirt_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBackup checks that examples/snapshot-virsh backs up a running guest, and that its TPM can be
// restored as in docs/snapshots.md.
func TestBackup(t *testing.T) {
	dir := inside(t)
	g := &guest{name: "backup20", uuid: "8c0a5a3e-0000-4000-8000-000000000014", version: "2.0", model: "tpm-crb"}
	g.define(t, dir)
	virsh(t, "start", g.name)
	g.running(t)
	pass, hook := filepath.Join(dir, "pass"), filepath.Join(dir, "hook")
	write(t, pass, "a passphrase\n")
	write(t, hook, "#!/bin/sh\ncat \"$1\" >>"+filepath.Join(dir, "hooked")+"\n")
	if err := os.Chmod(hook, 0o755); err != nil {
		t.Fatal(err)
	}

	var reports []map[string]any
	for i, backup := range []string{"", "vda"} {
		to := filepath.Join(dir, fmt.Sprint("backup", i))
		if err := os.Mkdir(to, 0o700); err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, g.name+".qcow2.*")
		if backup != "" {
			copied = filepath.Join(to, "copy.qcow2")
			write(t, filepath.Join(to, "backup.xml"),
				"<domainbackup><disks><disk name='"+backup+"' type='file'><target file='"+copied+"'/><driver type='qcow2'/></disk></disks></domainbackup>")
		}
		cmd := exec.Command("sh", "../../examples/snapshot-virsh", g.name, to, pass, hook)
		cmd.Env = append(os.Environ(), "LIBVIRT_DEFAULT_URI=qemu:///system")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
		g.running(t)
		if found, _ := filepath.Glob(copied); len(found) != 1 {
			t.Errorf("%q are copies of the disk, want one", found)
		}
		report := map[string]any{}
		if err := json.Unmarshal([]byte(read(t, filepath.Join(to, g.name+".tpm.json"))), &report); err != nil || report["passphrase"] != true || report["identity"] == "" {
			t.Fatalf("%v: %v", err, report)
		}
		reports = append(reports, report)
	}
	if a, b := reports[0], reports[1]; a["identity"] != b["identity"] || a["generation"].(float64) >= b["generation"].(float64) {
		t.Errorf("two backups: %v, %v", a, b)
	}
	if n := strings.Count(read(t, filepath.Join(dir, "hooked")), `"generation"`); n != 2 {
		t.Errorf("the hook ran %d times, want 2", n)
	}

	g.restore(t, filepath.Join(dir, "backup0", g.name+".tpm"), pass, fmt.Sprint(reports[0]["identity"]))
}

// restore restores the guest's TPM from a snapshot, and starts the guest with it.
func (g *guest) restore(t *testing.T, snapshot, pass, identity string) {
	t.Helper()
	virsh(t, "destroy", g.name)
	g.gone(t)
	restore := exec.Command("swtpm", "state", "import", "--replace", "--no-volatile", "--passphrase-file", pass,
		"--tpmstate", "dir="+g.state(), snapshot)
	if out, err := restore.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", restore, err, out)
	}
	virsh(t, "start", g.name)
	g.running(t)
	if log := read(t, g.log()); strings.Contains(log, "old state") || strings.Contains(log, "another") {
		t.Errorf("the restored TPM counts as an old one: %s", log)
	}
	virsh(t, "destroy", g.name)
	g.gone(t)
	out, err := exec.Command("swtpm", "state", "inspect", "--json", "--tpmstate", "dir="+g.state()).Output()
	if err != nil || !strings.Contains(string(out), identity) {
		t.Errorf("%v: %s, want the identity %s", err, out, identity)
	}
	g.made(t)
	virsh(t, "undefine", g.name)
}
