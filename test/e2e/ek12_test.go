package e2e_test

import (
	"encoding/json"
	"encoding/pem"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestInspectEK12 checks the endorsement key and its certificate that are read from the state of a
// TPM 1.2 that is off: one that would print them to any client, one with an owner and locked NV
// memory, which refuses, and an encrypted one, made by us and by the reference.
func TestInspectEK12(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"open":      {"--create-ek-cert"},
		"owned":     {"--create-ek-cert", "--create-platform-cert", "--take-ownership", "--lock-nvram"},
		"encrypted": {"--create-ek-cert", "--lock-nvram", "--pwdfile", "passphrase"},
		"no cert":   {"--createek"},
	} {
		for _, program := range []string{ours("swtpm_setup"), harness.Need(t, "swtpm_setup", "swtpm-tools")} {
			isOurs := program == ours("swtpm_setup")
			if !isOurs && name != "owned" && name != "encrypted" {
				continue
			}
			t.Run(name+map[bool]string{true: ", ours", false: ", reference"}[isOurs], func(t *testing.T) { inspectEK12(t, name, program, args, isOurs) })
		}
	}
}

// inspectEK12 manufactures a TPM 1.2 with program and checks what the inspection says about its key.
func inspectEK12(t *testing.T, name, program string, args []string, isOurs bool) {
	t.Parallel()
	dir := harness.TempDir(t)
	state, files := filepath.Join(dir, "state"), filepath.Join(dir, "files")
	mkdir(t, state)
	mkdir(t, files)
	write(t, filepath.Join(dir, "passphrase"), []byte("a passphrase"))
	tool := ours("swtpm_localca")
	if !isOurs {
		tool = harness.Need(t, "swtpm_localca", "swtpm-tools")
	}
	all := append([]string{"--tpm-state", state, "--config", makeCA(t, dir, tool), "--write-ek-cert-files", files}, args...)
	if isOurs {
		all = append(all, "--public-key-files", files)
	}
	setup := exec.Command(program, all...)
	setup.Dir = dir
	if code, out, stderr := runCmd(t, setup); code != 0 {
		t.Fatalf("%v: exit code %d\n%s%s", setup.Args, code, out, stderr)
	}

	inspect := exec.Command(ours("swtpm"), "state", "inspect", "--ek", "--json", "--tpmstate", "dir="+state)
	if name == "encrypted" {
		inspect.Args = append(inspect.Args, "--key", "pwdfile=passphrase")
	}
	inspect.Dir = dir
	code, out, stderr := runCmd(t, inspect)
	var keys []struct{ Handle, Algorithm, Fingerprint, PublicKey, Certificate string }
	if err := json.Unmarshal([]byte(out), &keys); code != 0 || err != nil || len(keys) != 1 {
		t.Fatalf("state inspect --ek: exit code %d, %v, %d keys, want 1\n%s", code, err, len(keys), stderr)
	}
	k := keys[0]
	if k.Handle != "0x40000006" || k.Algorithm != "rsa2048" || len(k.Fingerprint) != 64 {
		t.Errorf("the key is %+v", k)
	}
	if want := harness.Read(t, filepath.Join(files, "ek-rsa2048.pub.pem")); isOurs && k.PublicKey != want {
		t.Errorf("the key\n%s, want\n%s", k.PublicKey, want)
	}
	cert := harness.Read(t, filepath.Join(files, "ek-rsa2048.crt"))
	if (cert == "") != (name == "no cert") {
		t.Fatalf("the file of the certificate has %d bytes", len(cert))
	}
	if cert == "" {
		if k.Certificate != "" {
			t.Errorf("a certificate that nobody has made:\n%s", k.Certificate)
		}
		return
	}
	if block, _ := pem.Decode([]byte(k.Certificate)); block == nil || string(block.Bytes) != cert {
		t.Errorf("another certificate:\n%s", k.Certificate)
	}
	// openssl checks that the certificate fits the key.
	x509 := exec.Command(harness.Need(t, "openssl", "openssl"), "x509", "-pubkey", "-noout")
	x509.Stdin = strings.NewReader(k.Certificate)
	if _, pub, stderr := runCmd(t, x509); pub != k.PublicKey {
		t.Errorf("the certificate's key is\n%s%s, that of the TPM\n%s", pub, stderr, k.PublicKey)
	}
}
