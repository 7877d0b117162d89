package newer_test

import (
	"crypto/rsa"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSetup checks algorithm profiles of swtpm_setup with the newer library. The messages are the
// reference's.
func TestSetup(t *testing.T) {
	ld := newer(t)
	dir := t.TempDir()
	conf, local := filepath.Join(dir, "setup.conf"), filepath.Join(dir, "profiles")
	if err := os.Mkdir(local, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		conf:                             "profile = {\"Name\": \"default-v1\"}\nlocal_profiles_dir = " + local + "\n",
		filepath.Join(local, "odd.json"): `{ "b": [ 1 ], "Name":"custom:x", "a":"<ours> & \u003cothers>" }`,
		filepath.Join(local, "own.json"): `{"Name":"custom:own","Description":"ours"}`,
		filepath.Join(local, ".json"):    `{"Name":"custom:nameless"}`,
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
		{[]string{"--print-profiles"}, 0, `{"local":[{"b":[1],"Name":"odd","a":"<ours> & <others>"},{"Name":"own","Description":"ours"}],"`, ""},
		{[]string{"--print-profiles"}, 0, `"builtin":[{"Name":"default-v`, ""},
		{[]string{"--print-profiles", "--tpm", strings.Join(ours(t), " ") + " socket"}, 0, `,"builtin":[{"Name":"default-v`, ""},
		{[]string{"--print-profiles", "--tpm", strings.Join(reference(t), " ") + " socket"}, 0, `,"builtin":[{"Name":"default-v`, ""},
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
		args := append(append([]string{}, ld[1:]...), built("swtpm_setup"), "--tpm2", "--tpm-state", state, "--config", conf)
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

// TestRSA4096 checks that an EK of 4096 bits with its certificate is created if
// --print-capabilities says that the library supports it, and is refused otherwise, with the
// reason, before anything is created. libtpms 0.10 does not support it; its successor is the
// first.
func TestRSA4096(t *testing.T) {
	ld := newer(t)
	dir := t.TempDir()
	state, conf, caConf := filepath.Join(dir, "state"), filepath.Join(dir, "setup.conf"), filepath.Join(dir, "localca.conf")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		conf:                          "create_certs_tool = " + built("swtpm_localca") + "\ncreate_certs_tool_config = " + caConf + "\ncreate_certs_tool_options = " + dir + "/options\n",
		caConf:                        "statedir = " + dir + "/ca\nsigningkey = " + dir + "/ca/signkey.pem\nissuercert = " + dir + "/ca/issuercert.pem\n",
		filepath.Join(dir, "options"): "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (code int, out string) {
		cmd := exec.Command(ld[0], append(append(append([]string{}, ld[1:]...), built("swtpm_setup"), "--tpm2"), args...)...)
		b, _ := cmd.CombinedOutput() // the code says how
		return cmd.ProcessState.ExitCode(), string(b)
	}
	code, capabilities := run("--print-capabilities")
	if code != 0 || !strings.Contains(capabilities, `"tpm2-rsa-keysize-3072"`) {
		t.Fatalf("--print-capabilities: exit code %d, %s", code, capabilities)
	}
	able := strings.Contains(capabilities, `"tpm2-rsa-keysize-4096"`)
	t.Logf("the library makes RSA keys of 4096 bits: %v", able)
	args := []string{"--tpm-state", state, "--config", conf, "--create-ek-cert", "--ek1keyalgo", "rsa4096", "--write-ek-cert-files", dir}
	if able {
		args = append(args, "--profile-name", "default-v2")
	}
	code, out := run(args...)
	made, _ := filepath.Glob(filepath.Join(state, "*"))
	if !able {
		if code != 1 || out != "4096 bit RSA keys are not supported by libtpms.\n" || len(made) > 0 {
			t.Errorf("exit code %d, want 1; it says %q; in the directory %q", code, out, made)
		}
		return
	}
	if code != 0 || !strings.Contains(out, "Successfully created RSA 4096 EK with handle 0x8101001e") || len(made) == 0 {
		t.Errorf("exit code %d, in the directory %q:\n%s", code, made, out)
	}
	der, err := os.ReadFile(filepath.Join(dir, "ek-rsa4096.crt"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if k, ok := cert.PublicKey.(*rsa.PublicKey); !ok || k.N.BitLen() != 4096 {
		t.Errorf("the certificate is that of a %T", cert.PublicKey)
	}
}
