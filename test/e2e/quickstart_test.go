package e2e_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestQuickstart checks examples/quickstart.toml with tpm2-tools as an ordinary user: keys and NV
// indices survive a restart.
func TestQuickstart(t *testing.T) {
	tools := filepath.Dir(harness.Need(t, "tpm2_getrandom", "tpm2-tools"))
	t.Parallel()
	dir := harness.TempDir(t)
	port := harness.FreePort(t)
	profile := quickstart(t, port)
	write(t, filepath.Join(dir, "quickstart.toml"), []byte(profile))
	script := filepath.Join(dir, "tools.sh")
	write(t, script, []byte(harness.Read(t, "testdata/tools.sh")))
	own(t, dir, "quickstart.toml", "tools.sh", ".")

	for _, part := range []string{"first", "again"} {
		cmd := asUser(dir, ours("swtpm"), "run", "quickstart.toml")
		p := harness.Start(t, cmd)
		for _, port := range []int{port, port + 1} {
			awaitTCP(t, p, port)
		}
		sh := asUser(dir, "/bin/sh", script, part)
		sh.Env = append(os.Environ(), "PATH="+tools+":/usr/bin:/bin", "HOME="+dir,
			fmt.Sprintf("TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=%d", port))
		if code, stdout, stderr := runCmd(t, sh); code != 0 {
			t.Fatalf("tools.sh %s: exit code %d\n%s%s\n%s", part, code, stdout, stderr, p.Out.String())
		}
		if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(t); code != 0 {
			t.Errorf("after SIGTERM: exit code %d, want 0\n%s", code, p.Out.String())
		}
		// At the first start a TPM is created, and an NV index cannot be read after PCR 16 has
		// changed. Otherwise the log of a TPM without problems is empty.
		want := map[string]string{"first": "swtpm: made a new TPM 2.0 in dir://" + dir + "/quickstart-state\n" +
			"swtpm: policy not satisfied: TPM2_NV_Read with a policy over sha256:16: result 0x99d\n"}[part]
		if said := besides(p.Out.String()); said != want {
			t.Errorf("%s: the log is %q, want %q", part, said, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "quickstart-state", "tpm2-00.permall")); err != nil {
		t.Errorf("the state is not where the profile says: %v", err)
	}
}

// quickstart is the example with other ports, because one may be running.
func quickstart(t *testing.T, port int) string {
	t.Helper()
	text := harness.Read(t, "../../examples/quickstart.toml")
	for i, p := range []string{"2321", "2322"} {
		if !strings.Contains(text, "tcp:127.0.0.1:"+p) {
			t.Fatalf("examples/quickstart.toml does not listen on port %s", p)
		}
		text = strings.ReplaceAll(text, "tcp:127.0.0.1:"+p, fmt.Sprintf("tcp:127.0.0.1:%d", port+i))
	}
	return text
}

// asUser is a command that runs in dir as an unprivileged user: user 65534 if root runs the test,
// otherwise the user of the test.
func asUser(dir, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// own gives files in dir to the user of asUser.
func own(t *testing.T, dir string, names ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	for _, name := range names {
		if err := os.Chown(filepath.Join(dir, name), nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitTCP waits until something listens on the port.
func awaitTCP(t *testing.T, p *harness.Process, port int) {
	t.Helper()
	err := harness.Until(func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil || p.Ended()
	})
	if err != nil || p.Ended() {
		t.Fatalf("nothing listens on port %d: %v\n%s", port, err, p.Out.String())
	}
}
