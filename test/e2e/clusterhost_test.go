package e2e_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/swtpm-go/swtpm/internal/store"
	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// clusterHost is a broker on a store of one member.
type clusterHost struct {
	t      testing.TB
	dir    string
	member *etcdtest.Member
	broker *harness.Process
	files  []*os.File // the broker's sockets, which outlive it as those of systemd do
}

// newClusterHost starts a member with these options, and a broker.
func newClusterHost(t testing.TB, options ...string) *clusterHost {
	t.Helper()
	return newBrokerOf(t, etcdtest.Start(t, options...))
}

// newBrokerOf starts a broker of the member.
func newBrokerOf(t testing.TB, member *etcdtest.Member) *clusterHost {
	t.Helper()
	h := &clusterHost{t: t, dir: harness.TempDir(t), member: member}
	h.settings(h.member.URL, "*")
	h.listen()
	h.startBroker()
	h.write("key", strings.Repeat("5a", 16))
	h.write("vm1.toml", "tpm = \"2.0\"\n[control]\nlisten = \"unix:"+h.path("vm1.sock")+"\"\n[tpmstate]\nstore = \"vm1\"\n[key]\nfile = \""+h.path("key")+"\"\n[manufacture]\n")
	return h
}

// settings writes the configuration of the broker.
func (h *clusterHost) settings(endpoint, states string) {
	h.write("store.toml", fmt.Sprintf("endpoints = [%q]\nhost = \"host-a\"\nsocket = %q\nmark = %q\n[[allow]]\nusers = [\"*\"]\nstates = [%q]\n", endpoint, h.path("socket"), h.path("mark"), states))
}

// client returns a client of the store, which ends with the test.
func (h *clusterHost) client() *clientv3.Client {
	h.t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{h.member.URL}})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// listen opens the sockets of the broker.
func (h *clusterHost) listen() {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.path("socket"), Net: "unix"})
	if err != nil {
		h.t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	again, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("reconnect"), Net: "unixgram"})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, s := range []interface {
		File() (*os.File, error)
		Close() error
	}{l, again} {
		f, err := s.File()
		if err != nil {
			h.t.Fatal(err)
		}
		_ = s.Close()
		h.t.Cleanup(func() { _ = f.Close() })
		h.files = append(h.files, f)
	}
}

// startBroker starts the broker with its sockets; the words tracer run it.
func (h *clusterHost) startBroker(tracer ...string) {
	h.t.Helper()
	line := append(tracer, "sh", "-c", `LISTEN_PID=$$ exec "$0" --config "$1"`, ours("swtpm-store"), h.path("store.toml"))
	cmd := exec.Command(line[0], line[1:]...)
	cmd.ExtraFiles = h.files
	cmd.Env = append(os.Environ(), fmt.Sprint("LISTEN_FDS=", len(h.files)), "RUNTIME_DIRECTORY="+h.dir)
	h.broker = harness.Start(h.t, cmd)
	if len(tracer) == 0 {
		harness.Await(h.t, "the broker", func() bool { return strings.Contains(h.broker.Out.String(), "serving TPMs") || h.broker.Ended() })
	}
}

// restartBroker kills the broker and starts it again.
func (h *clusterHost) restartBroker() {
	h.t.Helper()
	h.broker.Kill(h.t)
	h.startBroker()
}

func (h *clusterHost) path(name string) string { return filepath.Join(h.dir, name) }

func (h *clusterHost) write(name, text string) {
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// env is the environment of a TPM of this host.
func (h *clusterHost) env() []string { return []string{"SWTPM_STORE_SOCKET=" + h.path("socket")} }

// storeClient opens a state of the broker with this socket.
func storeClient(t testing.TB, socket, state string) *store.Client {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := store.NewClient(conn, state)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// storeItem stores an item of a state that no TPM uses.
func storeItem(t testing.TB, socket, state, name string, b []byte) {
	t.Helper()
	c := storeClient(t, socket, state)
	defer c.Close()
	g, err := c.Acquire(nil)
	if err == nil {
		_, err = c.Put(g.Generation+1, []store.Item{{Name: name, Blob: b}}, nil)
	}
	if err == nil {
		err = c.Release([32]byte{})
	}
	if err != nil {
		t.Fatal(err)
	}
}
