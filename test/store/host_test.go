package store_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// key is the key of all states, in hex.
const key = "8899aabbccddeeff0011223344556677"

// host is a node with a broker, whose sockets outlive it as those of systemd do.
type host struct {
	*node
	broker *harness.Process
	files  []*os.File
	starts int // of TPMs
}

func (c *cluster) newHost(t *testing.T, name, settings string) *host {
	t.Helper()
	h := &host{node: c.net.add(t, name, 16<<20)}
	h.clock = newClock(t, 24*time.Hour*time.Duration(1+h.pid%20))
	h.config("endpoints = " + c.endpoints() + "\n" + settings)
	h.write("key", key)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.path("socket"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("reconnect"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []interface{ File() (*os.File, error) }{l, r} {
		file, err := f.File()
		if err != nil {
			t.Fatal(err)
		}
		h.files = append(h.files, file)
	}
	h.startBroker()
	return h
}

// config writes the broker's configuration: the times, and the lines of settings.
func (h *host) config(settings string) {
	h.write("store.toml", fmt.Sprintf("host = %q\ngenerations = 2\n%s\n[lease]\nttl = %q\nmargin = %q\n[[allow]]\nusers = [\"*\"]\nstates = [\"*\"]\n", h.name, settings, ttl, margin))
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) write(name, text string) {
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// startBroker starts the broker with the sockets.
func (h *host) startBroker() {
	cmd := h.command("sh", "-c", `LISTEN_PID=$$ exec "$0" --config "$1"`, filepath.Join(bin, "swtpm-store"), h.path("store.toml"))
	cmd.ExtraFiles = h.files
	cmd.Env = append(os.Environ(), "LISTEN_FDS=2", "RUNTIME_DIRECTORY="+h.dir)
	h.broker = harness.Start(h.t, cmd)
}

// reboot starts the host again after a power cut: another boot ID, another clock, an empty
// /run.
func (h *host) reboot() {
	_ = os.Remove(h.path("lease"))
	h.boot()
	h.clock = newClock(h.t, 24*time.Hour*time.Duration(1+time.Now().UnixNano()%20))
	h.startBroker()
}

// signal sends a signal to a process that may have ended.
func signal(p *harness.Process, s syscall.Signal) { _ = p.Cmd.Process.Signal(s) }

// instance is one process of a TPM.
type instance struct {
	*harness.Process
	host   *host
	socket string
	number int // in the order of the starts of the world
}

var numbers atomic.Int32

// launch starts a TPM process with this state.
func (h *host) launch(state string) *instance {
	h.starts++
	i := &instance{host: h, socket: h.path(fmt.Sprintf("tpm%d", h.starts)), number: int(numbers.Add(1))}
	cmd := h.command(filepath.Join(bin, "swtpm"), "socket", "--tpm2", "--tpmstate", "backend-uri=store://"+state, "--key", "file="+h.path("key"),
		"--flags", "not-need-init,startup-clear", "--server", "type=unixio,path="+i.socket)
	cmd.Env = append(os.Environ(), "SWTPM_STORE_SOCKET="+h.path("socket"))
	i.Process = harness.Start(h.t, cmd)
	return i
}

// answers waits until the TPM answers, and returns false if the process ends before.
func (i *instance) answers() bool {
	for end := time.Now().Add(harness.Patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if i.Ended() {
			return false
		}
		conn, err := net.Dial("unix", i.socket)
		if err != nil {
			continue
		}
		rsp, err := (&link{Conn: conn, patience: time.Second}).Send([]byte{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8})
		_ = conn.Close()
		if err == nil && bytes.Equal(rsp[6:10], make([]byte, 4)) {
			return true
		}
	}
	return false
}

// acquire starts the TPM as systemd does, until it answers. It fails after limit.
func (h *host) acquire(state string, limit time.Duration) (*instance, error) {
	var last *instance
	for begin := time.Now(); time.Since(begin) < limit; time.Sleep(50 * time.Millisecond) {
		i := h.launch(state)
		if i.answers() {
			return i, nil
		}
		_ = i.Cmd.Process.Kill()
		<-i.Done
		last = i
	}
	return nil, fmt.Errorf("host %s does not get state %s within %v: %s; broker: %s", h.name, state, limit, last.Out.String(), h.broker.Out.String())
}
