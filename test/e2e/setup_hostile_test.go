package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
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

// TestSetupHostileProgram checks that the existing TPM stays if the emulator leaves something else
// than a state, or fails.
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
			dir := harness.TempDir(t)
			state := filepath.Join(dir, "state")
			mkdir(t, state)
			base := []string{"--tpm2", "--tpm-state", state, "--config", "/dev/null"}
			mustRun(t, ours("swtpm_setup"), base...)
			file := filepath.Join(state, v20.file())
			was := harness.Read(t, file)
			program := script(t, filepath.Join(dir, "emulator"), ours("swtpm")+` "$@" || exit $?
for word; do case $word in dir=*) state=${word#dir=}/`+v20.file()+`; `+text+`;; esac; done
`)
			for _, how := range []string{"--reconfigure", "--overwrite"} {
				args := append(base, how, "--pcr-banks", "sha1", "--tpm", program+" socket")
				code, _, stderr := runCmd(t, exec.Command(ours("swtpm_setup"), args...))
				if code != 1 || !strings.Contains(stderr, " emulator") {
					t.Errorf("%s: exit code %d, want 1; %s", how, code, stderr)
				}
				if harness.Read(t, file) != was {
					t.Fatalf("%s: the TPM is another one", how)
				}
			}
			if left := mustRun(t, "ls", "-A", state); left != ".lock\n"+v20.file()+"\n" {
				t.Errorf("left in the directory: %q", left)
			}
		})
	}
}

// TestSetupStaging checks that root's emulator works where no other user can put
// a link in the way, and otherwise next to the state.
func TestSetupStaging(t *testing.T) {
	t.Parallel()
	needRoot(t, "the state is another user's")
	for owner, beside := range map[int]bool{0: true, 65534: false} {
		dir := harness.TempDir(t)
		state, seen := filepath.Join(dir, "state"), filepath.Join(dir, "seen")
		mkdir(t, state)
		if err := os.Chown(state, owner, owner); err != nil {
			t.Fatal(err)
		}
		program := script(t, filepath.Join(dir, "emulator"), `echo "$@" >>`+seen+"\nexec "+ours("swtpm")+` "$@"`+"\n")
		for _, how := range []string{"--overwrite", "--reconfigure"} {
			mustRun(t, ours("swtpm_setup"), "--tpm2", "--tpm-state", state, "--config", "/dev/null", how, "--tpm", program+" socket")
		}
		if got := strings.Contains(harness.Read(t, seen), "dir="+state+"/"); got != beside {
			t.Errorf("owner %d: beside the state %v, want %v\n%s", owner, got, beside, harness.Read(t, seen))
		}
		if left := mustRun(t, "ls", "-A", state); left != ".lock\n"+v20.file()+"\n" {
			t.Errorf("owner %d: left in the directory: %q", owner, left)
		}
	}
}

// TestSetupInterruptedPrograms ends a setup whose emulator says nothing of its
// capabilities, or whose tool has started something that keeps its output open.
func TestSetupInterruptedPrograms(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"emulator": {"--tpm", "PROGRAM socket"}, "tool": {"--create-ek-cert"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := harness.TempDir(t)
			state, pid, conf := filepath.Join(dir, "state"), filepath.Join(dir, "pid"), filepath.Join(dir, "setup.conf")
			mkdir(t, state)
			program := script(t, filepath.Join(dir, "program"), "sleep 600 &\necho $! >"+pid+".new; mv "+pid+".new "+pid+"; wait\n")
			write(t, conf, []byte("create_certs_tool = "+program+"\n"))
			all := []string{"--tpm2", "--tpm-state", state, "--config", conf}
			for _, a := range args {
				all = append(all, strings.Replace(a, "PROGRAM", program, 1))
			}
			p := harness.Start(t, exec.Command(ours("swtpm_setup"), all...))
			if err := harness.Until(func() bool { _, err := os.Stat(pid); return err == nil || p.Ended() }); err != nil || p.Ended() {
				t.Fatalf("the program was not asked; %s", p.Out.String())
			}
			defer exec.Command("kill", strings.TrimSpace(harness.Read(t, pid))).Run()
			if err := p.Cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code := p.Wait(t); code != 1 || !strings.Contains(p.Out.String(), "Interrupted") {
				t.Errorf("exit code %d, want 1; %s", code, p.Out.String())
			}
		})
	}
}
