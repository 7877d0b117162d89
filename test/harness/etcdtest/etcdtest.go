// Package etcdtest starts members of etcd for tests.
package etcdtest

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Member is a running etcd.
type Member struct {
	URL string // where clients connect
	Dir string // its data
	Cmd *exec.Cmd
}

// Start runs a single member on the loopback interface until the test ends. Without etcd
// it skips the test, or fails it if SWTPM_TEST_REQUIRE is set.
func Start(t testing.TB, options ...string) *Member {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		if os.Getenv("SWTPM_TEST_REQUIRE") != "" {
			t.Fatal("etcd is missing: install etcd-server")
		}
		t.Skip("etcd is missing")
	}
	m := &Member{URL: "http://" + freeAddress(t), Dir: filepath.Join(t.TempDir(), "etcd")}
	peer := "http://" + freeAddress(t)
	m.Cmd = exec.Command("etcd", append([]string{
		"--name=one", "--data-dir=" + m.Dir, "--listen-client-urls=" + m.URL, "--advertise-client-urls=" + m.URL,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=one=" + peer,
		"--unsafe-no-fsync", "--logger=zap", "--log-level=error",
	}, options...)...)
	m.Cmd.Stderr = os.Stderr
	m.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Cmd.Process.Kill()
		_ = m.Cmd.Wait()
	})
	m.await(t)
	return m
}

// await waits until the member serves clients.
func (m *Member) await(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		rsp, err := http.Get(m.URL + "/health")
		if err != nil {
			continue
		}
		_ = rsp.Body.Close()
		if rsp.StatusCode == http.StatusOK {
			return
		}
	}
	t.Fatalf("etcd at %s does not become healthy", m.URL)
}

// freeAddress returns an address of the loopback interface that was free a moment ago.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
