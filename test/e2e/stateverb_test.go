package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
