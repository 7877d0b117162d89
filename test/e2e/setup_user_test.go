package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestSetupOrdinaryUser checks that an ordinary user who lacks rights to the machine's
// configuration or CA learns about personal files, and that these work.
func TestSetupOrdinaryUser(t *testing.T) {
	needRoot(t, "to become an ordinary user")
	t.Parallel()
	const advice = "run: swtpm_setup --create-config-files skip-if-exist"
	home := harness.TempDir(t)
	must(t, os.Chown(home, nobody, nobody))
	asUser := func(args ...string) (string, error) {
		cmd := exec.Command(ours("swtpm_setup"), args...)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME=")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, c := range []struct {
		name string
		hide string // what only root may read
	}{
		{"configuration", "setup.conf"}, {"configuration of the CA", "ca.conf"}, {"options", "options"},
		{"directory of the CA", "ca"}, {"signing key", "ca/signkey.pem"}, {"certificate", "ca/issuercert.pem"},
	} {
		dir, state := harness.TempDir(t), filepath.Join(home, strings.ReplaceAll(c.name, " ", "-"))
		mkdir(t, state)
		must(t, os.Chown(state, nobody, nobody))
		ca := filepath.Join(dir, "ca")
		putCA(t, ca)
		write(t, filepath.Join(dir, "options"), nil)
		write(t, filepath.Join(dir, "ca.conf"), fmt.Appendf(nil, "statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\n", ca))
		write(t, filepath.Join(dir, "setup.conf"), fmt.Appendf(nil, "create_certs_tool = %s\ncreate_certs_tool_config = %s/ca.conf\ncreate_certs_tool_options = %s/options\n", ours("swtpm_localca"), dir, dir))
		rootState := harness.TempDir(t)
		if out, err := exec.Command(ours("swtpm_setup"), "--tpm2", "--tpmstate", rootState, "--create-ek-cert", "--config", dir+"/setup.conf").CombinedOutput(); err != nil {
			t.Fatalf("as root: %v\n%s", err, out)
		}
		for _, file := range []string{"setup.conf", "ca.conf", "options", "ca", "ca/signkey.pem", "ca/issuercert.pem", "ca/certserial", "ca/.lock.swtpm-localca"} {
			must(t, os.Chmod(filepath.Join(dir, file), 0o777))
		}
		must(t, os.Chmod(filepath.Join(dir, c.hide), 0o700))
		out, err := asUser("--tpm2", "--tpmstate", state, "--create-ek-cert", "--config", dir+"/setup.conf")
		if err == nil || !strings.Contains(out, advice) {
			t.Errorf("%s: %v, without %q:\n%s", c.name, err, advice, out)
		}
	}

	if out, err := asUser("--create-config-files", "skip-if-exist"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	state := filepath.Join(home, "state")
	mkdir(t, state)
	must(t, os.Chown(state, nobody, nobody))
	if out, err := asUser("--tpm2", "--tpmstate", state, "--create-ek-cert"); err != nil || strings.Contains(out, advice) {
		t.Errorf("with files of this user: %v\n%s", err, out)
	}
}
