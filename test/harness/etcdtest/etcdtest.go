// Package etcdtest starts members of etcd for tests.
package etcdtest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// Member is a running etcd.
type Member struct {
	URL string // where clients connect
	Dir string // its data
	Cmd *exec.Cmd

	traced bool // Cmd is a tracer, whose only child is the member
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
	if slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "--cert-file=") }) {
		m.URL = strings.Replace(m.URL, "http:", "https:", 1)
		m.Cmd.Args = append(m.Cmd.Args, "--listen-client-urls="+m.URL, "--advertise-client-urls="+m.URL)
	}
	m.run(t, m.Cmd.Args)
	t.Cleanup(m.Kill)
	return m
}

// run starts the member with this command line, and waits until it serves clients.
func (m *Member) run(t testing.TB, args []string) {
	t.Helper()
	m.Cmd = exec.Command(args[0], args[1:]...)
	m.Cmd.Stderr = os.Stderr
	m.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.await(t)
}

// Restart ends the member and starts it again. The words tracer run it.
func (m *Member) Restart(t testing.TB, tracer ...string) {
	t.Helper()
	args := m.Cmd.Args[slices.Index(m.Cmd.Args, "etcd"):]
	m.Kill()
	m.traced = len(tracer) > 0
	m.run(t, append(tracer, args...))
}

// Post sends a request to the member's gateway, and returns the reply. The test fails unless
// the member replies with one of the statuses.
func (m *Member) Post(t testing.TB, path, body string, statuses ...int) string {
	t.Helper()
	rsp, err := http.Post(m.URL+"/v3/"+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer rsp.Body.Close()
	text, err := io.ReadAll(rsp.Body)
	if err != nil || !slices.Contains(append(statuses, http.StatusOK), rsp.StatusCode) {
		t.Fatalf("%s %s: %v %s %s", path, body, err, rsp.Status, text)
	}
	return string(text)
}

// Alarm sets the alarm that a member without space sets, with which it refuses writes, or clears it.
func (m *Member) Alarm(t testing.TB, set bool) {
	t.Helper()
	action := "DEACTIVATE"
	if set {
		action = "ACTIVATE"
	}
	m.Post(t, "maintenance/alarm", `{"action":"`+action+`","memberID":"1","alarm":"NOSPACE"}`)
}

// await waits until the member serves clients.
func (m *Member) await(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(harness.EventTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if address, ok := strings.CutPrefix(m.URL, "https://"); ok {
			if c, err := net.Dial("tcp", address); err == nil {
				_ = c.Close()
				return
			}
			continue
		}
		rsp, err := (&http.Client{Timeout: 10 * time.Second}).Get(m.URL + "/health")
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

// freeAddress returns a free address of the loopback interface for the time of the test.
func freeAddress(t testing.TB) string {
	t.Helper()
	port, release, err := harness.ReservePort(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// StartThree runs a cluster of three members.
func StartThree(t testing.TB) []*Member {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("etcd is missing")
	}
	names := []string{"one", "two", "three"}
	var peers, cluster []string
	for _, name := range names {
		peers = append(peers, "http://"+freeAddress(t))
		cluster = append(cluster, name+"="+peers[len(peers)-1])
	}
	var all []*Member
	for i, name := range names {
		m := &Member{URL: "http://" + freeAddress(t), Dir: filepath.Join(t.TempDir(), "etcd")}
		m.Cmd = exec.Command("etcd", "--name="+name, "--data-dir="+m.Dir, "--listen-client-urls="+m.URL, "--advertise-client-urls="+m.URL,
			"--listen-peer-urls="+peers[i], "--initial-advertise-peer-urls="+peers[i], "--initial-cluster="+strings.Join(cluster, ","),
			"--unsafe-no-fsync", "--logger=zap", "--log-level=panic")
		m.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := m.Cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Kill)
		all = append(all, m)
	}
	for _, m := range all {
		m.await(t)
	}
	return all
}

// Kill kills the member. A tracer of it has written what it saw if it traces nothing else any more.
func (m *Member) Kill() {
	if m.traced {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", m.Cmd.Process.Pid))
		for child := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(child); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		timer := time.AfterFunc(10*time.Second, func() { _ = m.Cmd.Process.Kill() })
		defer timer.Stop()
	} else {
		_ = m.Cmd.Process.Kill()
	}
	_ = m.Cmd.Wait()
}

// Snapshot saves a snapshot of the member to file.
func (m *Member) Snapshot(t testing.TB, file string) {
	t.Helper()
	cmd := exec.Command("etcdctl", "--endpoints="+m.URL, "snapshot", "save", file)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("etcdctl snapshot save: %v: %s", err, out)
	}
}
