//go:build cgo

package setup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// library is the libtpms of this process.
func library() Library {
	return Library{Engine: libtpms.Engine(), Version: libtpms.Version(), HasProfiles: libtpms.HasProfiles(), Refuses: libtpms.Refuses}
}

// run runs the program in this process.
func run(ctx context.Context, args ...string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	err = Run(ctx, args, Environment{Name: "swtpm_setup", Stdout: &out, Stderr: &errs, Bindir: "/bin", Library: library()})
	return out.String(), errs.String(), err
}

// TestProfileRun checks the files, the mark and the inventory of a TPM that was manufactured from
// a profile, that a second run changes nothing, and that a lost TPM is not replaced.
func TestProfileRun(t *testing.T) {
	dir := t.TempDir()
	st := filepath.Join(dir, "st")
	setupConf := writeTo(t, dir, "setup.conf", "create_certs_tool = "+script(t, "exit 1")+"\n", 0o600)
	profile := writeTo(t, dir, "vm.toml", "control.listen = \"unix:/c\"\n[tpmstate]\ndir = \""+st+"\"\ncreate = true\n[key]\nfile = \""+
		writeTo(t, dir, "key", strings.Repeat("0f", 16), 0o600)+"\"\n[manufacture]\nek = [\"secp256r1\", \"secp384r1\"]\nvmid = \"vm:11111111-2222-3333-4444-555555555555\"\nconfig = \""+setupConf+"\"\nspk = \"ecc\"\n", 0o600)
	stdout, stderr, err := run(t.Context(), profile, "--inventory", "-")
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	var keys []string
	for line := range strings.Lines(stdout) {
		var e inventoryEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.VM != "vm" || e.UUID != "11111111-2222-3333-4444-555555555555" || len(e.Fingerprint) != 64 {
			t.Errorf("entry %+v", e)
		}
		keys = append(keys, e.Key)
	}
	if strings.Join(keys, " ") != "secp256r1 secp384r1" || !strings.Contains(stderr, "Successfully authored TPM state.") {
		t.Errorf("keys %q; messages %s", keys, stderr)
	}
	if m, err := readMark(&markFile{st, markName}); err != nil || m.Done.IsZero() || len(m.Keys) != 2 {
		t.Errorf("mark %+v, %v", m, err)
	}
	state := filepath.Join(st, "tpm2-00.permall")
	before, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err = run(t.Context(), "--needed", profile)
	if after, _ := os.ReadFile(state); err != nil || !bytes.Equal(before, after) || !strings.Contains(stdout, "leaving it unchanged") {
		t.Errorf("second run: %v, %s%s", err, stdout, stderr)
	}
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	if _, stderr, err = run(t.Context(), profile); err == nil || !strings.Contains(stderr, "is missing in dir://"+st) {
		t.Errorf("a lost TPM: %v, %s", err, stderr)
	}
}

// TestFailures checks that a failure or an interruption leaves the state directory as it
// was, and the messages.
func TestFailures(t *testing.T) {
	dir := t.TempDir()
	failing := writeTo(t, dir, "failing.conf", "create_certs_tool = "+script(t, "echo no CA >&2; exit 2")+"\n", 0o600)
	state := filepath.Join(dir, "tpm2-00.permall")
	if _, stderr, err := run(t.Context(), "--tpm2", "--tpm-state", dir, "--config", "/dev/null"); err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	before, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		ctx  context.Context
		args string
		want string
	}{
		{t.Context(), "--create-ek-cert --ek1keyalgo secp256r1 --config " + failing, "tool exit with status 2: no CA\nAn error occurred. Authoring the TPM state failed.\n"},
		{ended, "--config /dev/null", "Interrupted; dir://" + dir + " is unchanged.\nAn error occurred. Authoring the TPM state failed.\n"},
		{t.Context(), "--pcr-banks nonsense --config /dev/null", "No PCR banks could be allocated. None of the selected algorithms are supported.\nAn error occurred. Authoring the TPM state failed.\n"},
		{t.Context(), "--cipher rot13 --config /dev/null", "Unsupported cipher rot13.\n"},
		{t.Context(), "--keyfile /nonexistent --config /dev/null", "cannot read keyfile /nonexistent.\n"},
		{t.Context(), "--runas no-such-user-here --config /dev/null", "Error: "},
		{t.Context(), "--config /nonexistent", "cannot read config file /nonexistent."},
		{t.Context(), "--logfile /nonexistent/log", "Error opening file /nonexistent/log: "},
	} {
		_, stderr, err := run(tt.ctx, append([]string{"--tpm2", "--tpm-state", dir, "--overwrite"}, strings.Fields(tt.args)...)...)
		if err == nil || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: %v, %q; want %q", tt.args, err, stderr, tt.want)
		}
		if after, err := os.ReadFile(state); err != nil || !bytes.Equal(before, after) {
			t.Fatalf("%s: the state has changed", tt.args)
		}
	}
}

// TestFiles checks the files for the host.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	_, stderr, err := run(t.Context(), "--tpm2", "--createek", "--ek1keyalgo", "secp256r1", "--tpm-state", "file://"+dir+"/image", "--config", "/dev/null",
		"--public-key-files", dir, "--write-ek-cert-files", dir, "--inventory", dir+"/list")
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	for _, name := range []string{"image", "ek-secp256r1.pub.pem", "ek-secp384r1.pub.pem", "list"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, args := range []string{"--print-capabilities", "--print-profiles", "--tpm2 --print-profiles", "--version", "--help", "--completion bash"} {
		if out, stderr, err := run(t.Context(), append(strings.Fields(args), "--config", "/dev/null")...); err != nil || out == "" {
			t.Errorf("%s: %v, %s", args, err, stderr)
		}
	}
}

// TestTrustBundle checks the certificates of a CA that does not exist yet, and of one that
// does.
func TestTrustBundle(t *testing.T) {
	dir := t.TempDir()
	ca := writeTo(t, dir, "ca.conf", "statedir = "+dir+"\nsigningkey = "+dir+"/k.pem\nissuercert = "+dir+"/c.pem\n", 0o600)
	conf := writeTo(t, dir, "setup.conf", "create_certs_tool_config = "+ca+"\n", 0o600)
	if _, _, err := run(t.Context(), "--print-trust-bundle", "--config", conf); err == nil {
		t.Error("a missing CA has a bundle")
	}
	f := newFixture(t)
	c := &certifier{path: "/ca", inProcess: true, config: ca, options: "/dev/null", tpm: described, log: f.log, tpm2: true}
	if _, err := c.Issue(t.Context(), caRequest(t)); err != nil {
		t.Fatal(err)
	}
	if out, stderr, err := run(t.Context(), "--print-trust-bundle", "--config", conf); err != nil || strings.Count(out, "BEGIN CERTIFICATE") != 2 {
		t.Errorf("%v: %s%s", err, out, stderr)
	}
}

// TestEngineCancel checks that the end of the context ends a command.
func TestEngineCancel(t *testing.T) {
	f, loc := newFixture(t), newLocation(t, false)
	e, err := startEngine(t.Context(), library(), loc, nil, nil, "", f.log)
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Execute(ctx, tpm.Shutdown(0)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if rsp, err := e.Execute(t.Context(), tpm.Shutdown(0)); err != nil || len(rsp) != tpm.HeaderSize {
		t.Errorf("%x, %v", rsp, err)
	}
	if sealed, err := e.finish(); err != nil || len(sealed) == 0 {
		t.Errorf("%d bytes, %v", len(sealed), err)
	}
}

// TestOtherEmulator checks that TPMs are manufactured and changed with swtpm as a child process.
func TestOtherEmulator(t *testing.T) {
	bin := t.TempDir()
	swtpm := filepath.Join(bin, "swtpm")
	if out, err := exec.Command("go", "build", "-o", swtpm, "github.com/swtpm-go/swtpm/cmd/swtpm").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	key, err := os.Open(writeTo(t, bin, "key", strings.Repeat("0f", 16), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	base := []string{"--tpm2", "--tpm-state", dir, "--config", "/dev/null", "--tpm", swtpm + " socket"}
	for _, tt := range []struct{ args, want string }{
		{"--createek --ek1keyalgo secp256r1", "Successfully created secp256r1 EK with handle 0x8101000a."},
		{"--reconfigure --pcr-banks sha384", "Successfully activated PCR banks sha384 among "},
		{"--overwrite --keyfile " + key.Name() + " --cipher aes-256-cbc", ""},
		{"--overwrite --keyfile-fd " + numberOf(key), "with a provided key (fd)."},
	} {
		stdout, stderr, err := run(t.Context(), append(base, strings.Fields(tt.args)...)...)
		if tt.want == "" { // the key has 128 bits
			if err == nil {
				t.Errorf("%s: no error", tt.args)
			}
			continue
		}
		if err != nil || !strings.Contains(stdout, tt.want) || !strings.Contains(stdout, "TPM is listening on Unix socket.\n") {
			t.Errorf("%s: %v\n%s%s", tt.args, err, stdout, stderr)
		}
		if left, err := filepath.Glob(dir + "/.swtpm_setup.*"); err != nil || left != nil {
			t.Errorf("%s: left %q, %v", tt.args, left, err)
		}
	}
	for text, want := range map[string]string{
		`case $* in *capabilities*) echo '{"features":["tpm-2.0"]}';; *) exit 3;; esac`: "swtpm process terminated unexpectedly",
		`case $* in *capabilities*) echo '{"features":["tpm-1.2"]}';; esac`:             "does not support TPM 2",
	} {
		args := append(base[:5:5], "--overwrite", "--tpm", script(t, text))
		if _, stderr, err := run(t.Context(), args...); err == nil || !strings.Contains(stderr, want) {
			t.Errorf("%s: %v, %s; want %q", text, err, stderr, want)
		}
	}
}
