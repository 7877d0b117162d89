package store_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestQuickstore checks contrib/quickstore.sh, called in another directory: it starts a TPM that
// answers, stops everything before it returns, and starts the same TPM again.
func TestQuickstore(t *testing.T) {
	for _, p := range []string{"etcd", "tpm2_nvdefine", "tpm2_nvreadpublic"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is missing", p)
		}
	}
	script, err := filepath.Abs("../../contrib/quickstore.sh")
	if err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	for name, target := range map[string]string{"swtpm": "swtpm", "swtpm-store": "swtpm-store", "swtpm-admin": "swtpm-admin", "swtpm_setup": "swtpm-setup", "swtpm-setup": "swtpm-setup"} {
		if err := os.Symlink(filepath.Join(bin, target), filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	dir, port, etcdPort := t.TempDir(), strconv.Itoa(harness.FreePort(t)), strconv.Itoa(harness.FreePort(t))
	run := func(bin string, args ...string) (string, error) {
		c := exec.Command(args[0], args[1:]...)
		c.Dir = t.TempDir()
		c.Env = append(os.Environ(), "QUICKSTORE="+dir, "BIN="+bin, "PORT="+port, "ETCD_PORT="+etcdPort, "TPM2TOOLS_TCTI=swtpm:port="+port)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := run(programs, args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	if out, err := run(t.TempDir(), script, "start"); err == nil || !strings.Contains(out, "run make build first") {
		t.Errorf("start without programs: %v\n%s", err, out)
	}
	t.Cleanup(func() { _, _ = run(programs, script, "stop") })
	foreign, err := net.Listen("tcp", "127.0.0.1:"+etcdPort)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run(programs, script, "start"); err == nil || !strings.Contains(out, "port "+etcdPort+" is in use: systemctl stop etcd, or ETCD_PORT=") {
		t.Errorf("start while another program has etcd's port: %v\n%s", err, out)
	}
	_ = foreign.Close()
	if out := must(script, "start"); !strings.Contains(out, "export SWTPM_STORE_SOCKET="+dir+"/socket\n") {
		t.Errorf("start does not print the variable of the broker's socket:\n%s", out)
	}
	must("tpm2_nvdefine", "0x1500001", "-C", "o", "-s", "8")
	wantStopped(t, dir, func() string { return must(script, "stop") })
	must(script, "start")
	if out := must("tpm2_nvreadpublic"); !strings.Contains(out, "0x1500001") {
		t.Errorf("the NV index is missing after the second start:\n%s", out)
	}
	wantStopped(t, dir, func() string { return must(script, "stop") })
}

// wantStopped checks that stop ends all three programs before it returns, and prints one line.
func wantStopped(t *testing.T, dir string, stop func() string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.pid"))
	if err != nil || len(files) != 3 {
		t.Fatalf("process numbers: %v, %v, want 3", files, err)
	}
	var running []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		running = append(running, "/proc/"+strings.TrimSpace(string(text)))
	}
	if out := stop(); strings.Count(out, "\n") != 1 {
		t.Errorf("stop printed %q, want one line", out)
	}
	for _, p := range running {
		// A process that has ended and that its parent has not waited for has no command line.
		if text, err := os.ReadFile(filepath.Join(p, "cmdline")); err == nil && len(text) > 0 {
			t.Errorf("%s runs after stop", text)
		}
	}
}
