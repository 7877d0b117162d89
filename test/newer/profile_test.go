package newer_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// words of the algorithms that a custom profile may list.
const algorithms = "rsa,rsa-min-size=1024,tdes,tdes-min-size=128,sha1,hmac,aes,aes-min-size=128,mgf1,keyedhash,xor," +
	"sha256,sha384,sha512,null,rsassa,rsaes,rsapss,oaep,ecdsa,ecdh,ecdaa,sm2,ecschnorr,ecmqv,kdf1-sp800-56a,kdf2," +
	"kdf1-sp800-108,ecc,ecc-min-size=192,ecc-nist,ecc-bn,ecc-sm2-p256,symcipher,camellia,camellia-min-size=128,cmac,ctr,ofb,cbc,cfb,ecb"

// custom is a profile of our own, without blanks.
func custom(without, attributes string) string {
	var list []string
	for _, w := range strings.Split(algorithms, ",") {
		if !strings.HasPrefix(w, without) || without == "" {
			list = append(list, w)
		}
	}
	p := `{"Name":"custom:own","Algorithms":"` + strings.Join(list, ",") + `"`
	if attributes != "" {
		p += `,"Attributes":"` + attributes + `"`
	}
	return p + "}"
}

// refusing is an OpenSSL configuration in which nothing is found: no algorithm
// has the property. Algorithms of libtpms itself work all the same.
const refusing = `openssl_conf = init
[init]
providers = providers
alg_section = properties
[providers]
default = activate
[activate]
activate = 1
[properties]
default_properties = nobody=has-this
`

// TestProfile compares what both programs make of --profile: the outcome and the
// profile that the TPM then has.
func TestProfile(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "openssl.cnf")
	if err := os.WriteFile(conf, []byte(refusing), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(file, []byte("  {\"Name\":\"custom:f\"}\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const sha1 = "no-sha1-signing,no-sha1-verification"
	profiles := []string{
		"", "name=default-v1", "name=null", "name=custom", "name=custom:own", "name=nobody", "name=", "name", `name=q"`,
		"file=" + file, "file=none", "file=st", "file=" + os.DevNull, "fd=99", "fd=-1", "fd=x",
		"remove-disabled=check", "remove-disabled=all,name=custom", "name=custom,profile={}", "name=custom,file=x",
		"name=null,fd=0", "name=null,file=x,fd=0", "name=null,file=x,fd=-1", "name=null,file=x,profile={},fd=0",
		"profile={bad", "profile={bad}", "profile={bad},remove-disabled=fips-host", `profile={"Name":1}`, `profile={"Name":1},remove-disabled=check`,
		"profile=" + custom("", ""), "profile=" + custom("camellia", ""), "profile=" + custom("hmac", ""), "profile=" + custom("", "nonsense"),
		"profile=" + custom("tdes", sha1), "profile=" + custom("camellia", sha1), "profile=" + custom("camellia", "fips-host"),
		"profile=" + strings.ReplaceAll(custom("camellia", sha1), "tdes,tdes-min-size=128,", ""),
	}
	for _, name := range []string{"name=custom", "name=customary", "name=null", "name=custom:own", "profile=" + custom("", ""),
		"profile=" + custom("rsaes", "no-sha1-signing"), "profile=" + custom("", "fips-host"), "profile=" + custom("", "no-unpadded-encryption"),
		"profile=" + custom("", "no-sha1-signing,no-sha1-verification,no-unpadded-encryption")} {
		profiles = append(profiles, name+",remove-disabled=check", name+",remove-disabled=fips-host")
	}
	for _, p := range profiles {
		for _, env := range [][]string{nil, {"OPENSSL_CONF=" + conf}} {
			args := "socket --tpm2 --tpmstate dir=st --print-info 0xff"
			if p != "" {
				args += " --profile " + p
			}
			same(t, env, args)
		}
	}
	same(t, nil, "socket --tpmstate dir=st --print-info 0xff --profile name=nobody")
	same(t, nil, "socket --tpmstate dir=st --print-info 0xff --profile file=none")
}

// TestProfileMessages checks two messages that scripts of the reference search for.
func TestProfileMessages(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ profile, want string }{
		{"name=nobody", `Could not set profile for TPM2: '{"Name":"nobody"}'`},
		{"profile=" + custom("", "nonsense"), "Could not set profile for TPM2: '{"},
		{"name=default-v1", ""},
		{"name=default-v1", "Profile could not be applied to an existing TPM 2 instance"},
	} {
		o := try(t, dir, nil, ours(t), "socket", "--tpm2", "--tpmstate", "dir="+dir, "--print-info", "1", "--profile", c.profile)
		if !strings.Contains(o.stderr, c.want) || (o.code == 0) != (c.want == "") || strings.Count(o.stderr, "swtpm: ") > 1 {
			t.Errorf("--profile %s: exit %d, %q, want one line with %q", c.profile, o.code, o.stderr, c.want)
		}
	}
}

// TestProfileByDescriptor: the JSON comes from a descriptor, and a TPM that has it
// serves its guest and is the same after a restart without the option.
func TestProfileByDescriptor(t *testing.T) {
	ld := newer(t)
	state := t.TempDir()
	args := []string{bin, "socket", "--tpm2", "--tpmstate", "dir=" + state, "--flags", "startup-clear"}
	file := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(file, []byte(`{"Name":"custom:pipe"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	sh := append([]string{"sh", "-c", `exec "$@" 7<` + file, "sh"}, ld...)
	var made, again string
	live(t, append(append(sh, args...), "--profile", "fd=7"), func(c net.Conn) {
		ask(t, c, nvDefine)
		made = ask(t, c, nvPublic)
	})
	live(t, append(append([]string{}, ld...), args...), func(c net.Conn) { again = ask(t, c, nvPublic) })
	if len(made) < 20 || made[12:20] != "00000000" || made != again {
		t.Errorf("made: %s, after a restart: %s, want the same, and success", made, again)
	}
	o := try(t, state, nil, ours(t), "socket", "--tpm2", "--tpmstate", "dir="+state, "--print-info", "0x20")
	if !strings.Contains(o.stdout, `"Name":"custom:pipe"`) {
		t.Errorf("print-info = %q, %s", o.stdout, o.stderr)
	}
	// The older library must not take it for its own, and must leave it alone.
	old := try(t, state, nil, []string{bin}, "socket", "--tpm2", "--tpmstate", "dir="+state, "--print-info", "1")
	if old.code != 1 || !strings.Contains(old.stderr, "INIT failed: ") {
		t.Errorf("with the older library: exit %d, %q", old.code, old.stderr)
	}
	o = try(t, state, nil, reference(t), "socket", "--tpm2", "--tpmstate", "dir="+state, "--print-info", "0x20")
	if !strings.Contains(o.stdout, `"Name":"custom:pipe"`) {
		t.Errorf("the reference, on our state: %q, %s", o.stdout, o.stderr)
	}
}

// TestProfileInTOML checks that a TPM of our profile gets its algorithm profile, and that a second
// start with it fails with the reason.
func TestProfileInTOML(t *testing.T) {
	dir := t.TempDir()
	const src = "flags.not-need-init = true\ninterface.server = \"unix:d\"\ntpmstate.dir = \".\"\n" +
		"[profile]\nname = \"custom:toml\"\nremove-disabled = \"fips-host\"\n"
	if err := os.WriteFile(filepath.Join(dir, "vm.toml"), []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	words := append(ours(t), "run", filepath.Join(dir, "vm.toml"))
	cmd := exec.Command(words[0], words[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	_ = harness.Dial(t, nil, filepath.Join(dir, "d")).Close()
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	o := try(t, dir, nil, ours(t), "socket", "--tpm2", "--tpmstate", "dir=.", "--print-info", "0x20")
	var info struct {
		ActiveProfile struct{ Name, Algorithms, Attributes string }
	}
	if err := json.Unmarshal([]byte(o.stdout), &info); err != nil {
		t.Fatalf("%v: %q %s", err, o.stdout, o.stderr)
	}
	p := info.ActiveProfile
	if p.Name != "custom:toml" || strings.Contains(p.Algorithms, "camellia") || p.Attributes != "no-sha1-signing,no-sha1-verification,no-unpadded-encryption" {
		t.Errorf("the TPM has %+v", p)
	}
	if o := try(t, dir, nil, words); o.code != 1 || !strings.Contains(o.stderr, "leave out [profile]") {
		t.Errorf("the second start: exit %d, %q", o.code, o.stderr)
	}
}

// TestFIPS checks that FIPS mode is switched off, for this process alone and with a warning, for a
// TPM that needs forbidden algorithms, and stays on for another TPM.
func TestFIPS(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "openssl.cnf")
	if err := os.WriteFile(conf, []byte(strings.Replace(refusing, "nobody=has-this", "fips=yes", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ profile, warning string }{
		{"name=null", "turning OpenSSL's FIPS mode off for this TPM: it forbids algorithms that this TPM has enabled: camellia-128, "},
		{"name=custom,remove-disabled=fips-host", ""},
		{"name=custom,remove-disabled=check", ""},
	} {
		dir := t.TempDir()
		o := try(t, dir, []string{"OPENSSL_CONF=" + conf}, ours(t), "socket", "--tpm2", "--tpmstate", "dir="+dir, "--print-info", "1", "--profile", c.profile)
		if o.code != 0 || !strings.Contains(o.stderr, c.warning) || c.warning == "" && o.stderr != "" {
			t.Errorf("--profile %s: exit %d, %q, want a warning %q", c.profile, o.code, o.stderr, c.warning)
		}
	}
}
