package e2e_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// sharedCA has the files of a CA that our swtpm_localca made, by name. Its two RSA keys take longer
// than most of what the tests do with it.
var sharedCA = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "ca")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	conf, ca := filepath.Join(dir, "localca.conf"), filepath.Join(dir, "ca")
	if err := os.WriteFile(conf, localCAConfig(ca), 0o600); err != nil {
		return nil, err
	}
	out, err := exec.Command(ours("swtpm_localca"), "--type", "ek", "--ek", strings.Repeat("c5", 256), "--dir", dir, "--vmid", "first", "--tpm2",
		"--tpm-spec-family", "2.0", "--tpm-spec-level", "0", "--tpm-spec-revision", "164", "--tpm-manufacturer", "id:00001014",
		"--tpm-model", "swtpm", "--tpm-version", "id:20191023", "--configfile", conf, "--optsfile", os.DevNull).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("swtpm_localca: %w\n%s", err, out)
	}
	files := map[string][]byte{}
	names, err := filepath.Glob(filepath.Join(ca, "*"))
	for _, name := range names {
		b, readErr := os.ReadFile(name)
		files[filepath.Base(name)], err = b, errors.Join(err, readErr)
	}
	return files, err
})

func localCAConfig(ca string) []byte {
	return fmt.Appendf(nil, "statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", ca)
}

// putCA makes a directory with the files of sharedCA.
func putCA(t testing.TB, dir string) {
	t.Helper()
	files, err := sharedCA()
	if err != nil {
		t.Fatal(err)
	}
	mkdir(t, dir)
	for name, b := range files {
		write(t, filepath.Join(dir, name), b)
	}
}

// makeCA writes a local CA and its configuration, with tool as the program that signs for it, and
// returns the path of its swtpm_setup.conf.
func makeCA(t testing.TB, dir, tool string) string {
	t.Helper()
	ca := filepath.Join(dir, "ca")
	putCA(t, ca)
	write(t, filepath.Join(dir, "localca.conf"), localCAConfig(ca))
	write(t, filepath.Join(dir, "localca.options"), []byte("--platform-manufacturer Debian\n--platform-version 2.1\n--platform-model QEMU\n"))
	path := filepath.Join(dir, "setup.conf")
	write(t, path, fmt.Appendf(nil, "create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n",
		tool, filepath.Join(dir, "localca.conf"), filepath.Join(dir, "localca.options")))
	return path
}

// withTools starts an emulator on a state and runs a shell script with tpm2-tools,
// in dir. It returns what that prints.
func withTools(t *testing.T, program, state, dir, script string) string {
	t.Helper()
	tools := filepath.Dir(harness.Need(t, "tpm2_getcap", "tpm2-tools"))
	port := harness.FreePort(t)
	e := launch(t, setup{program: program, tpm: v20, nodata: true, state: state, args: []string{
		"--flags", "not-need-init,startup-clear", "--server", fmt.Sprintf("type=tcp,port=%d", port),
		"--ctrl", fmt.Sprintf("type=tcp,port=%d", port+1),
	}})
	e.awaitTCP(t, port)
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + tools + ":/usr/bin:/bin", fmt.Sprintf("TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=%d", port)}
	code, out, errout := runCmd(t, cmd)
	if code != 0 {
		t.Fatalf("tpm2-tools: exit code %d\n%s%s", code, out, errout)
	}
	e.terminate(t)
	return out
}

// describeTPM prints what a manufacturer has put into a TPM.
const describeTPM = `
tpm2_getcap handles-persistent
tpm2_getcap handles-nv-index
tpm2_getcap pcrs
tpm2_getcap properties-variable
tpm2_nvreadpublic
for h in $(tpm2_getcap handles-persistent | sed 's/^- //'); do
	echo "$h:"
	tpm2_readpublic -c $h
done
`

// ownOf are lines that differ from one TPM to the next.
var ownOf = regexp.MustCompile(`(?m)^ *(name|qualified name|rsa|x|y|size|TPM2_PT_(NV_WRITE_RECOVERY|LOCKOUT_COUNTER|AUDIT_COUNTER.*)): .*\n`)

// TestSetupLikeReference compares TPMs that swtpm_setup and ours have made, each
// running in the other's emulator: handles, NV indices, attributes, templates,
// PCR banks, what is locked.
func TestSetupLikeReference(t *testing.T) {
	t.Parallel()
	theirs, theirSwtpm := harness.Need(t, "swtpm_setup", "swtpm-tools"), harness.Need(t, "swtpm", "swtpm")
	for name, args := range map[string][]string{
		"libvirt":  {"--createek", "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--vmid", "vm:1"},
		"signing":  {"--create-ek-cert", "--allow-signing", "--decryption", "--pcr-banks", "sha1,sha512"},
		"ECC SPK":  {"--create-spk", "--ecc", "--createek", "--pcr-banks", "-"},
		"RSA 3072": {"--create-ek-cert", "--rsa-keysize", "3072"},
		"no keys":  {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := harness.TempDir(t)
			var described [2]string
			for i, side := range []struct{ setup, tool, emulator string }{
				{ours("swtpm_setup"), ours("swtpm_localca"), theirSwtpm},
				{theirs, harness.Need(t, "swtpm_localca", "swtpm-tools"), ours("swtpm")},
			} {
				place := filepath.Join(dir, fmt.Sprint(i))
				state := filepath.Join(place, "state")
				mkdir(t, place)
				mkdir(t, state)
				mustRun(t, side.setup, append([]string{"--tpm2", "--tpm-state", state, "--config", makeCA(t, place, side.tool)}, args...)...)
				described[i] = ownOf.ReplaceAllString(withTools(t, side.emulator, state, place, describeTPM), "")
			}
			if described[0] != described[1] {
				t.Errorf("a TPM of ours:\n%s\nof swtpm_setup:\n%s", described[0], described[1])
			}
			if !strings.Contains(described[0], "sha256") {
				t.Errorf("nothing is described:\n%s", described[0])
			}
		})
	}
}

// verifyTPM is what a verifier does with a TPM that it sees for the first time:
// the certificate in the TPM equals the file and has its issuer; the key that it
// certifies is the one that opens a secret for an attestation key of the same TPM.
const verifyTPM = `
tpm2_nvread 0x1c00002 >nv.crt
cmp nv.crt files/ek-rsa2048.crt
tpm2_nvread 0x1c00016 | cmp - files/ek-secp384r1.crt
openssl x509 -inform der -in nv.crt -out ek.pem
openssl verify -ignore_critical -CAfile bundle.pem ek.pem
openssl x509 -in ek.pem -pubkey -noout >ek.pub
cmp ek.pub files/ek-rsa2048.pub.pem

tpm2_createak -Q -C 0x81010001 -c ak.ctx -G rsa -g sha256 -s rsassa -u ak.pub -n ak.name
tpm2_flushcontext -t
echo "for this TPM alone" >secret
tpm2_makecredential -Q -T none -G rsa -u ek.pub -s secret -n "$(od -An -v -tx1 ak.name | tr -d ' \n')" -o blob
tpm2_startauthsession -Q --policy-session -S session
tpm2_policysecret -Q -S session -c e
tpm2_activatecredential -Q -c ak.ctx -C 0x81010001 -i blob -o opened -P session:session
cmp secret opened
tpm2_flushcontext session
tpm2_flushcontext -t

# locked, also for the platform
if tpm2_nvwrite -Q 0x1c00002 -C p -i secret 2>refusal; then echo "an index could be written"; exit 1; fi
grep -qi 'locked' refusal
`

// TestSetupVerified checks that the steps of a verifier succeed with a TPM that ours has made, in
// our emulator and in the reference's.
func TestSetupVerified(t *testing.T) {
	t.Parallel()
	harness.Need(t, "openssl", "openssl")
	for name, program := range map[string]string{"ours": ours("swtpm"), "reference": harness.Need(t, "swtpm", "swtpm")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := harness.TempDir(t)
			mkdir(t, filepath.Join(dir, "files"))
			state := filepath.Join(dir, "state")
			mkdir(t, state)
			conf := makeCA(t, dir, ours("swtpm_localca"))
			inventory := filepath.Join(dir, "inventory")
			mustRun(t, ours("swtpm-setup"), "--tpm2", "--tpm-state", "dir://"+state, "--create-ek-cert", "--lock-nvram", "--config", conf,
				"--vmid", "vm1:0c9a3b2e-1111-2222-3333-444455556666", "--write-ek-cert-files", filepath.Join(dir, "files"),
				"--public-key-files", filepath.Join(dir, "files"), "--inventory", inventory)
			write(t, filepath.Join(dir, "bundle.pem"), []byte(mustRun(t, ours("swtpm-setup"), "--print-trust-bundle", "--config", conf)))
			withTools(t, program, state, dir, verifyTPM)

			// The host has the same from the state at rest.
			var keys []struct{ Algorithm, Fingerprint, PublicKey, Certificate string }
			if err := json.Unmarshal([]byte(mustRun(t, ours("swtpm"), "state", "inspect", "--ek", "--json", "--tpmstate", "dir="+state)), &keys); err != nil || len(keys) != 2 {
				t.Fatalf("state inspect --ek: %v, %d keys", err, len(keys))
			}
			for _, k := range keys {
				if want := harness.Read(t, filepath.Join(dir, "files", "ek-"+k.Algorithm+".pub.pem")); k.PublicKey != want {
					t.Errorf("state inspect --ek: %s\n%s, want\n%s", k.Algorithm, k.PublicKey, want)
				}
				block, _ := pem.Decode([]byte(k.Certificate))
				if want := harness.Read(t, filepath.Join(dir, "files", "ek-"+k.Algorithm+".crt")); block == nil || string(block.Bytes) != want {
					t.Errorf("state inspect --ek: another certificate for %s", k.Algorithm)
				}
				if !strings.Contains(harness.Read(t, inventory), k.Fingerprint) {
					t.Errorf("state inspect --ek: the fingerprint %s is not in the inventory", k.Fingerprint)
				}
			}

			fingerprint := mustRun(t, "sh", "-c", "openssl pkey -pubin -in "+filepath.Join(dir, "files/ek-rsa2048.pub.pem")+" -outform der | sha256sum | cut -c1-64")
			for _, want := range []string{`"vm":"vm1","uuid":"0c9a3b2e-1111-2222-3333-444455556666","type":"ek","key":"rsa2048"`,
				`"fingerprint":"` + strings.TrimSpace(fingerprint) + `"`, `"issuer":"CN=swtpm-localca"`} {
				if got := harness.Read(t, inventory); !strings.Contains(got, want) {
					t.Errorf("inventory\n%s, which lacks %s", got, want)
				}
			}
		})
	}
}

// TestSetupFails checks that a setup which fails leaves an existing TPM as it
// was, byte by byte. The reference deletes it in each case.
func TestSetupFails(t *testing.T) {
	t.Parallel()
	dir := harness.TempDir(t)
	state := filepath.Join(dir, "state")
	mkdir(t, state)
	conf := filepath.Join(dir, "setup.conf")
	write(t, conf, []byte("create_certs_tool = /bin/false\n"))
	mustRun(t, ours("swtpm_setup"), "--tpm2", "--tpm-state", state, "--config", "/dev/null", "--createek")
	file := filepath.Join(state, v20.file())
	was := harness.Read(t, file)
	before := mustRun(t, "ls", "-lai", state)
	for _, args := range [][]string{
		{"--reconfigure", "--pcr-banks", "foo"},
		{"--reconfigure", "--pcr-banks", "sha1", "--keyfile", "/dev/null"},
		{"--overwrite", "--cipher", "aes-192-cbc"},
		{"--overwrite", "--pcr-banks", "foo"},
		{"--overwrite", "--config", "/nonexistent"},
		{"--overwrite", "--create-ek-cert", "--config", conf},
		{"--overwrite", "--create-ek-cert"},
		{"--overwrite", "--ek1keyalgo", "rsa1024"},
		{"--overwrite", "--createek", "--iakkeyalgo", "rsa2048"},
		{"--overwrite", "--write-ek-cert-files", "/nonexistent"},
		{},
	} {
		args = append([]string{"--tpm2", "--tpm-state", state, "--config", "/dev/null"}, args...)
		code, _, stderr := runCmd(t, exec.Command(ours("swtpm_setup"), args...))
		if code != 1 || stderr == "" {
			t.Errorf("%q: exit code %d, want 1; stderr %q", args, code, stderr)
		}
		if harness.Read(t, file) != was {
			t.Fatalf("%q: the TPM is another one", args)
		}
		if after := mustRun(t, "ls", "-lai", state); after != before {
			t.Errorf("%q: the directory has become\n%s, was\n%s", args, after, before)
		}
	}
	// A TPM that runs is in use, and stays.
	e := start(t, setup{tpm: v20, state: state, args: []string{"--flags", "startup-clear"}})
	e.open(t, v20).ok(t, random20) // it answers, so it has the lock
	code, _, stderr := runCmd(t, exec.Command(ours("swtpm_setup"), "--tpm2", "--tpm-state", state, "--config", "/dev/null", "--overwrite"))
	if code != 1 || !strings.Contains(stderr, "locked") {
		t.Errorf("a TPM that runs: exit code %d, %q", code, stderr)
	}
	e.terminate(t)
}

// TestSetupInterrupted ends a setup by a signal while it waits for a certificate:
// there is no TPM then, and nothing of one.
func TestSetupInterrupted(t *testing.T) {
	t.Parallel()
	for _, program := range [][]string{nil, {"--tpm", ours("swtpm") + " socket"}} {
		dir := harness.TempDir(t)
		state, tool := filepath.Join(dir, "state"), filepath.Join(dir, "tool")
		mkdir(t, state)
		write(t, tool, []byte("#!/bin/sh\ntouch "+dir+"/asked\nexec sleep 600\n"))
		if err := os.Chmod(tool, 0o755); err != nil {
			t.Fatal(err)
		}
		conf := filepath.Join(dir, "setup.conf")
		write(t, conf, []byte("create_certs_tool = "+tool+"\n"))
		args := append([]string{"--tpm2", "--tpm-state", state, "--config", conf, "--create-ek-cert"}, program...)
		p := harness.Start(t, exec.Command(ours("swtpm_setup"), args...))
		if err := harness.Until(func() bool { _, err := os.Stat(dir + "/asked"); return err == nil || p.Ended() }); err != nil || p.Ended() {
			t.Fatalf("%q: the tool was not asked; %s", args, p.Out.String())
		}
		if err := p.Cmd.Process.Signal(unix.SIGINT); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(t); code != 1 || !strings.Contains(p.Out.String(), "Interrupted") {
			t.Errorf("%q: exit code %d, want 1; %s", args, code, p.Out.String())
		}
		if left := strings.TrimSpace(mustRun(t, "ls", "-A", state)); left != ".lock" {
			t.Errorf("%q: left in the directory: %q", args, left)
		}
	}
}

// TestSetupKeys checks that a TPM is created, changed and run with a key, from a file and from
// descriptors, by our engine and by the reference's emulator.
func TestSetupKeys(t *testing.T) {
	t.Parallel()
	theirs := harness.Need(t, "swtpm", "swtpm") + " socket"
	for name, program := range map[string][]string{"ours": nil, "reference": {"--tpm", theirs}, "ours apart": {"--tpm", ours("swtpm") + " socket"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := harness.TempDir(t)
			state, pass := filepath.Join(dir, "state"), filepath.Join(dir, "pass")
			mkdir(t, state)
			write(t, pass, bytes.Repeat([]byte("long passphrase "), 40)) // as Nova has them
			base := append([]string{"--tpm2", "--tpm-state", state, "--config", "/dev/null", "--cipher", "aes-256-cbc"}, program...)
			mustRun(t, ours("swtpm_setup"), append(base, "--pwdfile", pass, "--createek")...)
			sh := exec.Command("sh", "-c", `cat "$0" | { exec 7<&0 </dev/null; "$@" --pwdfile-fd 7; }`, pass)
			sh.Args = append(append(sh.Args, ours("swtpm_setup")), append(base, "--reconfigure", "--pcr-banks", "sha512")...)
			if code, out, errout := runCmd(t, sh); code != 0 {
				t.Fatalf("--reconfigure: exit code %d\n%s%s", code, out, errout)
			}
			tools := filepath.Dir(harness.Need(t, "tpm2_getcap", "tpm2-tools"))
			port := harness.FreePort(t)
			e := launch(t, setup{tpm: v20, nodata: true, state: state, args: []string{
				"--flags", "not-need-init,startup-clear", "--key", "pwdfile=" + pass + ",mode=aes-256-cbc",
				"--server", fmt.Sprintf("type=tcp,port=%d", port), "--ctrl", fmt.Sprintf("type=tcp,port=%d", port+1),
			}})
			e.awaitTCP(t, port)
			cmd := exec.Command(filepath.Join(tools, "tpm2_getcap"), "pcrs")
			cmd.Env = append(os.Environ(), fmt.Sprintf("TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=%d", port))
			code, out, errout := runCmd(t, cmd)
			if code != 0 || !regexp.MustCompile(`sha512: \[ 0`).MatchString(out) || regexp.MustCompile(`sha256: \[ 0`).MatchString(out) {
				t.Errorf("PCR banks, exit code %d:\n%s%s", code, out, errout)
			}
			e.terminate(t)
		})
	}
}
