package newer_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSetup has swtpm_setup, with the newer library, do what needs one: algorithm
// profiles. The messages are the reference's.
func TestSetup(t *testing.T) {
	ld := newer(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "swtpm_setup")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/swtpm-setup").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	conf, local := filepath.Join(dir, "setup.conf"), filepath.Join(dir, "profiles")
	if err := os.Mkdir(local, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		conf:                             "profile = {\"Name\": \"default-v1\"}\nlocal_profiles_dir = " + local + "\n",
		filepath.Join(local, "own.json"): `{"Name":"custom:own","Description":"ours"}`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args   []string
		code   int
		stdout string // a part of it
		stderr string
	}{
		{[]string{"--print-capabilities"}, 0, `"cmdarg-profile", "cmdarg-profile-remove-disabled", "cmdarg-ek1keyalgo", "cmdarg-ek2keyalgo", "cmdarg-iakkeyalgo", "cmdarg-idevidkeyalgo" ], "profiles": [ "`, ""},
		{[]string{"--version"}, 0, "TPM emulator setup tool version 0.11.0\n", ""},
		{[]string{"--print-profiles"}, 0, `"local":[{"Description":"ours","Name":"own"}],`, ""},
		{[]string{"--print-profiles"}, 0, `"builtin":[{"Name":"default-v`, ""},
		{nil, 0, `Apply profile: {"Name": "default-v1"}` + "\nActive profile: {\"Name\":\"default-v1\",", ""},
		{[]string{"--profile-name", "builtin:null"}, 0, `Active profile: {"Name":"null",`, ""},
		{[]string{"--profile-name", "own"}, 0, `Active profile: {"Name":"custom:own",`, ""},
		{[]string{"--profile-name", "custom", "--profile-remove-disable", "check"}, 0, `Apply profile: {"Name":"custom"}` + "\nActive", ""},
		{[]string{"--profile", `{"Name":"foo"}`}, 1, "", "swtpm does not support a profile with name 'foo'\n"},
		{[]string{"--profile", `{"name":"x"}`}, 1, "", "Missing 'Name' field in '{\"name\":\"x\"}'\nFailed to get 'Name' from profile '{\"name\":\"x\"}'.\n"},
		{[]string{"--profile", `{"Name":null}`}, 1, "", "Failed to get 'Name' from profile '{\"Name\":null}'.\n"},
		{[]string{"--profile", `{"Name":"custom:` + strings.Repeat("x", 30) + `"}`}, 1, "", "Profile name must not exceed 32 characters.\n"},
		{[]string{"--profile-name", "local:foo"}, 1, "", "Could not find or access profile 'local:foo'.\n"},
		{[]string{"--profile-name", "../x"}, 1, "", "Profile name '../x' contains unacceptable characters.\n"},
		{[]string{"--profile-file", "/nonexistent.json"}, 1, "", "Could not open profile file '/nonexistent.json': No such file or directory\n"},
	} {
		state := t.TempDir()
		args := append(append([]string{}, ld[1:]...), program, "--tpm2", "--tpm-state", state, "--config", conf)
		cmd := exec.Command(ld[0], append(args, c.args...)...)
		var stdout, stderr strings.Builder
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run() // the code says how
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(stdout.String(), c.stdout) || c.stderr != "" && stderr.String() != c.stderr {
			t.Errorf("%q: exit code %d, want %d; stdout\n%s, want in it %q; stderr %q, want %q", c.args, code, c.code, stdout.String(), c.stdout, stderr.String(), c.stderr)
		}
		if left, _ := filepath.Glob(state + "/*permall"); c.code != 0 && len(left) > 0 {
			t.Errorf("%q: a TPM is there", c.args)
		}
	}
}
