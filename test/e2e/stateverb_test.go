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

// stateKeys are the words of --key; "" is plain.
var stateKeys = map[string]string{
	"plain":   "",
	"aes-128": "file=testdata/key128.hex",
	"aes-256": "file=testdata/key256.hex,mode=aes-256-cbc",
}

// keyArgs are the options that name a key of stateKeys.
func keyArgs(key string) []string {
	if stateKeys[key] == "" {
		return nil
	}
	return []string{"--key", stateKeys[key]}
}

// newKeyArgs are the options of a new key.
func newKeyArgs(key string) []string {
	if stateKeys[key] == "" {
		return []string{"--no-key"}
	}
	return []string{"--new-key", stateKeys[key]}
}

// stateVerb runs swtpm state on a directory and must succeed.
func stateVerb(t *testing.T, verb, dir string, args ...string) string {
	t.Helper()
	return mustState(t, append([]string{verb, "--tpmstate", "dir=" + dir}, args...)...)
}

// mustState runs swtpm state, which must succeed.
func mustState(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(ours("swtpm"), append([]string{"state"}, args...)...)
	cmd.Env = noSleep()
	code, stdout, stderr := runCmd(t, cmd)
	if code != 0 {
		t.Fatalf("swtpm state %s: exit code %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// noSleep is the environment in which the race detector does not sleep for a second
// at the end of each process.
func noSleep() []string { return append(os.Environ(), "GORACE=atexit_sleep_ms=0") }

// vector copies the state of a TPM whose PCR 10 was extended, with its volatile
// state and, for a TPM 1.2, its savestate. swtpm 0.7.1 wrote it.
func vector(t *testing.T, v version) (dir string) {
	t.Helper()
	name := map[version]string{v12: "tpm12-plain", v20: "tpm2-plain"}[v]
	from := filepath.Join("../../internal/seal/testdata/state", name)
	dir = harness.TempDir(t)
	files, err := filepath.Glob(filepath.Join(from, "tpm*-00.*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("%s: %q, %v", from, files, err)
	}
	for _, f := range files {
		write(t, filepath.Join(dir, filepath.Base(f)), []byte(harness.Read(t, f)))
	}
	return dir
}

// pcr10 starts program on the state and returns PCR 10 as it finds it, without a
// startup: the volatile state exists.
func pcr10(t *testing.T, program string, v version, dir, key string) (string, error) {
	t.Helper()
	return pcr10At(t, program, v, append([]string{"--tpmstate", "dir=" + dir}, keyArgs(key)...)...)
}

// pcr10At is pcr10 with options that name the state.
func pcr10At(t *testing.T, program string, v version, args ...string) (string, error) {
	t.Helper()
	e := start(t, setup{program: program, tpm: v, args: args})
	defer e.Kill(t)
	c := e.control(t)
	if err := c.Init(0); err != nil {
		return "", err
	}
	_ = c.Close()
	ch := e.open(t, v)
	defer ch.Close()
	return pcrValue(ch.ok(t, readPCR[v])), nil
}

// TestStateAdvice checks that swtpm state and swtpm_setup say what to do about a disk that is full or read-only.
func TestStateAdvice(t *testing.T) {
	t.Parallel()
	needRoot(t, "it mounts a small tmpfs")
	dir := harness.TempDir(t)
	mountAt(t, "tmpfs", dir, "tmpfs", "size=64k,mode=700")
	write(t, inDir.file(v20, dir), inDir.makeState(t, v20))
	advise(t, ".permall.bak: no such file or directory\n", "swtpm", "state", "rollback", "--tpmstate", "dir="+dir)
	fill(t, filepath.Join(dir, "fill"))
	advise(t, "; free space on that file system\n", "swtpm", "state", "rekey", "--tpmstate", "dir="+dir, "--new-key", stateKeys["aes-128"])
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "size=64k"); err != nil {
		t.Fatal(err)
	}
	advise(t, "; mount it writable, ", "swtpm", "state", "rekey", "--tpmstate", "dir="+dir, "--new-key", stateKeys["aes-128"])
	advise(t, "Read-only file system. Mount the file system writable, ", "swtpm_setup", "--tpm2", "--tpmstate", dir, "--overwrite")
	stateVerb(t, "verify", dir)
}

// TestSetupAdvice checks that swtpm_setup says what to do about an encrypted state.
func TestSetupAdvice(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	write(t, inDir.file(v20, dir), inDir.makeState(t, v20))
	stateVerb(t, "rekey", dir, newKeyArgs("aes-128")...)
	advise(t, "; give the key that the state was written with, --keyfile or --pwdfile\n", "swtpm_setup", "--tpm2", "--tpmstate", dir, "--reconfigure", "--pcr-banks", "sha256")
}

// advise checks that a program fails with the text want.
func advise(t *testing.T, want, name string, args ...string) {
	t.Helper()
	if code, out, stderr := runCmd(t, exec.Command(ours(name), args...)); code != 1 || !strings.Contains(out+stderr, want) {
		t.Errorf("%s %q: exit code %d, %s%s; want 1 and %q", name, args, code, out, stderr, want)
	}
}

// TestForeignOwner checks that the error of a file that this user may not open has the owner, the result and the
// advice in this order.
func TestForeignOwner(t *testing.T) {
	t.Parallel()
	needRoot(t, "a state that belongs to another user")
	dir := harness.TempDir(t)
	state := filepath.Join(dir, "state")
	mkdir(t, state)
	must(t, os.Chmod(state, 0o755))
	write(t, filepath.Join(state, ".lock"), nil)
	must(t, os.Chmod(filepath.Join(state, ".lock"), 0o600))
	user := ownUser(t)
	cmd := exec.Command("setpriv", "--reuid", user, "--regid", user, "--clear-groups", ours("swtpm"), "socket", "--tpm2",
		"--tpmstate", "dir="+state, "--server", "type=tcp,port=0", "--flags", "startup-clear")
	want := ", but this process is user " + user + "): TPM_RESULT 0x9 (TPM_FAIL); check the owner"
	if code, _, stderr := runCmd(t, cmd); code != 1 || !strings.Contains(stderr, want) {
		t.Errorf("exit code %d, %s; want 1 and %q", code, stderr, want)
	}
}
