package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestSetupLeftover kills a setup whose TPM another emulator plays, when that has a
// state. The next setup removes the directory that is left, and nothing else that is
// called like it.
func TestSetupLeftover(t *testing.T) {
	t.Parallel()
	theirs := harness.Need(t, "swtpm", "swtpm") + " socket"
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) { setupLeftover(t, v, theirs) })
	}
}

// setupLeftover kills a setup and checks what the next one removes.
func setupLeftover(t *testing.T, v version, theirs string) {
	t.Parallel()
	dir := harness.TempDir(t)
	state, tool, asked := filepath.Join(dir, "state"), filepath.Join(dir, "tool"), filepath.Join(dir, "asked")
	mkdir(t, state)
	write(t, tool, fmt.Appendf(nil, "#!/bin/sh\ntouch %[1]s\nwhile [ -e %[1]s ]; do sleep 0.2; done\nexit 1\n", asked))
	if err := os.Chmod(tool, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "setup.conf")
	write(t, conf, []byte("create_certs_tool = "+tool+"\n"))
	base := append(v.options(), "--tpm-state", state)
	p := harness.Start(t, exec.Command(ours("swtpm_setup"), append(base, "--config", conf, "--create-ek-cert", "--tpm", theirs)...))
	if err := harness.Until(func() bool { _, err := os.Stat(asked); return err == nil || p.Ended() }); err != nil || p.Ended() {
		t.Fatalf("the tool was not asked; %s", p.Out.String())
	}
	p.Kill(t)
	if err := os.Remove(asked); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(state, ".swtpm_setup.*"))
	if len(left) != 1 || harness.Read(t, filepath.Join(left[0], v.file())) == "" {
		t.Fatalf("left is %q, want one directory with a state", left)
	}
	// Its emulator may be about to end; others belong to other tests, or are at work.
	if err := harness.Until(func() bool { return !isLocked(t, filepath.Join(left[0], ".lock")) }); err != nil {
		t.Fatalf("its emulator has not ended: %v", err)
	}
	busy, other, file := filepath.Join(state, ".swtpm_setup.1"), filepath.Join(state, ".swtpm_setup.x1"), filepath.Join(state, ".swtpm_setup.2")
	for _, d := range []string{busy, other} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, file, nil)
	lock, err := os.Create(filepath.Join(busy, ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.FcntlFlock(lock.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	code, out, stderr := runCmd(t, exec.Command(ours("swtpm_setup"), append(base, "--config", "/dev/null", "--tpm", theirs)...))
	if code != 0 || !strings.Contains(out, "Removed "+left[0]+", left by a killed setup.\n") {
		t.Errorf("exit code %d, want 0 and a line that tells of %s\n%s%s", code, left[0], out, stderr)
	}
	for _, path := range []string{busy, file} {
		if !strings.Contains(stderr, "Not removing "+path+", possibly left by a killed setup: ") {
			t.Errorf("nothing is said of %s:\n%s", path, stderr)
		}
	}
	now, _ := filepath.Glob(filepath.Join(state, ".swtpm_setup.*"))
	if want := []string{busy, file, other}; fmt.Sprint(now) != fmt.Sprint(want) {
		t.Errorf("in the directory are %q, want %q", now, want)
	}
	if harness.Read(t, filepath.Join(state, v.file())) == "" {
		t.Error("no TPM was made")
	}
}

// isLocked says whether another process has a lock on a file.
func isLocked(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	how := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &how); err != nil {
		t.Fatal(err)
	}
	return how.Type != unix.F_UNLCK
}

// TestSetupHops12 checks that TPMs 1.2 that we have made, in our engine and with the reference's
// emulator, and one that the reference has made, run in both emulators by turns: each finds the
// certificate, the owner, and the data that the others have stored.
func TestSetupHops12(t *testing.T) {
	t.Parallel()
	theirs := harness.Need(t, "swtpm", "swtpm")
	for name, maker := range map[string][]string{
		"ours":                      {ours("swtpm_setup")},
		"ours with theirs as --tpm": {ours("swtpm_setup"), "--tpm", theirs + " socket"},
		"reference":                 {harness.Need(t, "swtpm_setup", "swtpm-tools")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := harness.TempDir(t)
			state, files := filepath.Join(dir, "state"), filepath.Join(dir, "files")
			mkdir(t, state)
			mkdir(t, files)
			conf := makeCA(t, dir, ours("swtpm_localca"))
			mustRun(t, maker[0], append(maker[1:], "--tpm-state", state, "--config", conf, "--create-ek-cert", "--take-ownership", "--write-ek-cert-files", files)...)
			cert := harness.Read(t, filepath.Join(files, "ek-rsa2048.crt"))
			if len(cert) < 500 {
				t.Fatalf("the file of the certificate has %d bytes", len(cert))
			}
			for i, program := range []string{theirs, ours("swtpm"), theirs} {
				e := start(t, setup{program: program, tpm: v12, state: state})
				ch := e.power(t, v12)
				// After the header of the TCG, 500 bytes of DER.
				if got := ch.succeed(t, "00c1 00000016 000000cf 1000f000 00000007 000001f4"); got != fmt.Sprintf("000001f4%x", cert[:500]) {
					t.Errorf("%d: the certificate begins %s", i, got)
				}
				// TPM_CAP_PROPERTY, TPM_CAP_PROP_OWNER.
				if got := ch.succeed(t, "00c1 00000016 00000065 00000005 00000004 00000111"); got != "0000000101" {
					t.Errorf("%d: ownerInstalled = %s", i, got)
				}
				for j := range i {
					if got := ch.succeed(t, fmt.Sprintf("00c1 00000016 000000cf 000102%02x 00000000 00000004", j)); got != fmt.Sprintf("00000004cafe00%02x", j) {
						t.Errorf("%d: NV index %d = %s", i, j, got)
					}
				}
				pcrs := "0003 000000 1f" + strings.Repeat("00", 20)
				ch.succeed(t, fmt.Sprintf("00c1 00000065 000000cc 0018 000102%02x %[2]s %[2]s 0017 00020002 000000 00000004 %[3]s", i, pcrs, strings.Repeat("00", 20)))
				ch.succeed(t, fmt.Sprintf("00c1 0000001a 000000cd 000102%02[1]x 00000000 00000004 cafe00%02[1]x", i))
				e.terminate(t)
			}
		})
	}
}

// succeed sends a command that must succeed and returns what follows the header of
// its response, in hex.
func (c *channel) succeed(t *testing.T, cmd string) string {
	t.Helper()
	rsp, err := c.transmit(cmd)
	if err != nil || len(rsp) < 10 || rsp[6]|rsp[7]|rsp[8]|rsp[9] != 0 {
		t.Fatalf("%s answers %x, %v", cmd, rsp, err)
	}
	return fmt.Sprintf("%x", rsp[10:])
}
