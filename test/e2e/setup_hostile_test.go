package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script writes a shell script and returns its path.
func script(t *testing.T, path, text string) string {
	t.Helper()
	write(t, path, []byte("#!/bin/sh\n"+text))
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSetupHostileProgram manufactures with emulators that leave something else
// than a state, or end badly: the TPM that was there stays as it was.
func TestSetupHostileProgram(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty":     `: >$state`,
		"cut short": `truncate -s 100 $state`,
		"changed":   `printf '\377\377\377\377\377\377\377\377' | dd of=$state bs=1 seek=200 conv=notrunc 2>/dev/null`,
		"huge":      `truncate -s 8G $state`,
		"fifo":      `rm $state; mkfifo $state`,
		"missing":   `rm $state`,
		"killed":    `kill -9 $$`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			state := filepath.Join(dir, "state")
			mkdir(t, state)
			base := []string{"--tpm2", "--tpm-state", state, "--config", "/dev/null"}
			mustRun(t, ours("swtpm_setup"), base...)
			file := filepath.Join(state, v20.file())
			was := read(t, file)
			program := script(t, filepath.Join(dir, "emulator"), ours("swtpm")+` "$@" || exit $?
for word; do case $word in dir=*) state=${word#dir=}/`+v20.file()+`; `+text+`;; esac; done
`)
			for _, how := range []string{"--reconfigure", "--overwrite"} {
				args := append(base, how, "--pcr-banks", "sha1", "--tpm", program+" socket")
				code, _, stderr := runCmd(t, exec.Command(ours("swtpm_setup"), args...))
				if code != 1 || !strings.Contains(stderr, "the emulator ") {
					t.Errorf("%s: exit code %d, want 1; %s", how, code, stderr)
				}
				if read(t, file) != was {
					t.Fatalf("%s: the TPM is another one", how)
				}
			}
			if left := mustRun(t, "ls", "-A", state); left != ".lock\n"+v20.file()+"\n" {
				t.Errorf("left in the directory: %q", left)
			}
		})
	}
}
