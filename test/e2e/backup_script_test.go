package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBackupScriptAborts checks that examples/snapshot-virsh ends the backup of the disks and lets
// the guest go on if the snapshot of the TPM fails, and does not end it otherwise.
func TestBackupScriptAborts(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		"0": "domid domfsfreeze suspend backup-begin resume domfsthaw domjobinfo",
		"1": "domid domfsfreeze suspend backup-begin domjobabort resume domfsthaw",
	} {
		dir := t.TempDir()
		for name, script := range map[string]string{
			"virsh": "#!/bin/sh\necho \"$1\" >>" + dir + "/calls\n[ \"$1\" != domid ] || echo 1\n",
			"swtpm": "#!/bin/sh\nexit " + code + "\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("sh", "../../examples/snapshot-virsh", "vm1", dir, "pass")
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if (err != nil) != (code == "1") {
			t.Errorf("exit code of swtpm %s: %v, %s", code, err, out)
		}
		calls, err := os.ReadFile(filepath.Join(dir, "calls"))
		if got := strings.Join(strings.Fields(string(calls)), " "); got != want {
			t.Errorf("exit code of swtpm %s: virsh %s, %v, want %s", code, got, err, want)
		}
	}
}
