package e2e_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestPolicyFailure checks that a secret that opens, and no longer opens after one more
// measurement, is in the boot ledger, the log and the metrics.
func TestPolicyFailure(t *testing.T) {
	harness.Need(t, "tpm2_unseal", "tpm2-tools")
	t.Parallel()
	p := startProfiled(t, "file = \"log\"\n[metrics]\nlisten = \"unix:metrics\"\n[ledger]\nkeep = \"boots\"\n")
	if err := os.Symlink(p.ctrl, p.data+".ctrl"); err != nil { // the TCTI expects it there
		t.Fatal(err)
	}
	work := harness.TempDir(t)
	tools := func(script string) (string, error) {
		cmd := exec.Command("sh", "-ec", script)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+p.data)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	const unseal = "tpm2_flushcontext -t -Q; tpm2_flushcontext -s -Q; tpm2_unseal -c object -p pcr:sha256:16,23"
	if out, err := tools(`tpm2_createprimary -Q -C o -G ecc -c primary
tpm2_createpolicy -Q --policy-pcr -l sha256:16,23 -L policy
tpm2_flushcontext -t -Q
printf marker-of-the-secret | tpm2_create -Q -C primary -L policy -a 'fixedtpm|fixedparent' -i - -u pub -r priv
tpm2_flushcontext -t -Q
tpm2_load -Q -C primary -u pub -r priv -c object
` + unseal); err != nil || !strings.HasSuffix(out, "marker-of-the-secret") {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := tools("tpm2_pcrextend 23:sha256=" + strings.Repeat("5a", 32) + "\n" + unseal); err == nil || !strings.Contains(strings.ToLower(out), "99d") {
		t.Fatalf("after the extend: %v: %s", err, out)
	}
	checkPolicies(t, filepath.Join(p.dir, "state"))
	const said = "unsealing failed: TPM2_Unseal with a policy over sha256:16+23: result 0x99d"
	if err := harness.Until(func() bool { return strings.Count(harness.Read(t, p.log), said) == 1 }); err != nil {
		t.Errorf("%q is not once in the log:\n%s", said, harness.Read(t, p.log))
	}
	conn := connect(t, filepath.Join(p.dir, "metrics"))
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nswtpm_policy_failures_total 1\n",
		"\nswtpm_pcr_policy_failures_total{pcr=\"16\"} 1\n",
		"\nswtpm_pcr_policy_failures_total{pcr=\"23\"} 1\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// checkPolicies waits until the ledger has a success, an extend of PCR 23 and a failure, in this
// order.
func checkPolicies(t *testing.T, dir string) {
	t.Helper()
	var results []uint32
	var digests []string
	err := harness.Until(func() bool {
		results, digests = nil, nil
		b := lastBoot(dir, v20)
		if b == nil {
			return false
		}
		for _, r := range b.Records {
			if r.Kind != ledger.KindPolicy {
				continue
			}
			p, err := r.Policy()
			if err != nil || len(p.Banks) != 1 || p.Banks[0].Alg != ledger.SHA256 || p.Banks[0].Mask != 1<<16|1<<23 || len(p.Digests) != 1 {
				t.Fatalf("%+v, %v", p, err)
			}
			results, digests = append(results, p.Result), append(digests, string(p.Digests[0].Value))
		}
		return len(results) == 2
	})
	if err != nil || results[0] != 0 || results[1] != 0x99d || digests[0] == digests[1] {
		t.Errorf("the results of the policies are %#x, with the digests %x", results, digests)
	}
}

// TestGivenUp checks that a failure of systemd, which compares the policy of its secret itself
// and sends no Unseal, is in the log, the metrics and the output of swtpm boots, and that a new
// secret does not count as a failure.
func TestGivenUp(t *testing.T) {
	harness.Need(t, "systemd-creds", "systemd")
	harness.Need(t, "tpm2_pcrextend", "tpm2-tools")
	t.Parallel()
	p := startProfiled(t, "file = \"log\"\n[ledger]\nkeep = \"boots\"\n")
	if err := os.Symlink(p.ctrl, p.data+".ctrl"); err != nil { // the TCTI expects it there
		t.Fatal(err)
	}
	tools := func(stdin string, args ...string) (string, error) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Stdin = p.dir, strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+p.data)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	const secret = "the secret of TestGivenUp"
	device := "--tpm2-device=swtpm:path=" + p.data
	unseal := []string{"systemd-creds", "decrypt", device, "--name=x", "cred", "-"}
	extend := []string{"tpm2_pcrextend", "7:sha256=" + strings.Repeat("5a", 32)}
	for _, step := range [][]string{extend, {"systemd-creds", "encrypt", "--with-key=tpm2", device, "--tpm2-pcrs=7", "--name=x", "-", "cred"}, unseal} {
		out, err := tools(secret, step...)
		if err != nil {
			t.Fatalf("%v: %v: %s", step, err, out)
		}
		if step[1] == "decrypt" && !strings.Contains(out, secret) {
			t.Fatalf("%v: %s", step, out)
		}
	}
	if out, err := tools("", extend...); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const said = "policy not used: "
	if text := harness.Read(t, p.log); strings.Contains(text, said) {
		t.Errorf("before the change: %s", text)
	}
	if out, err := tools("", unseal...); err == nil {
		t.Fatalf("after the change the secret opens: %s", out)
	}
	tools("", "tpm2_flushcontext", "-l") // systemd 252 leaves the session to the kernel
	const line = said + "the guest did not use a session with a policy over sha256:7"
	if err := harness.Until(func() bool { return strings.Contains(harness.Read(t, p.log), line) }); err != nil {
		t.Errorf("%q is not in the log:\n%s", line, harness.Read(t, p.log))
	}
	if text := harness.Read(t, p.log); strings.Count(text, said) != 1 {
		t.Errorf("not one failure in the log:\n%s", text)
	}
	var out string
	err := harness.Until(func() bool {
		out = mustRun(t, ours("swtpm"), "boots", "explain", p.profile)
		return strings.Contains(out, "Unsealing over PCR 7 (sha256) has failed")
	})
	if err != nil || !strings.Contains(out, "PCR 7, measurement 2: added") {
		t.Error(out)
	}
}
