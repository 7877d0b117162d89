package lab

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// Key is the key of all states, in hex.
const Key = "8899aabbccddeeff0011223344556677"

// Host is a node with a broker, whose sockets outlive it as those of systemd do.
type Host struct {
	*Node
	Broker  *harness.Process
	Program string // of the broker
	Env     []string
	Plain   bool // TPMs do not encrypt

	settings string
	bin      string // directory of the programs
	files    []*os.File
	starts   int // of TPMs
}

// NewHost starts a host with the programs of the directory bin, and with lines of settings in
// the configuration of its broker.
func (c *Cluster) NewHost(t *testing.T, bin, name, settings string) *Host {
	t.Helper()
	h := &Host{Node: c.net.add(t, name, 16<<20), bin: bin, Program: filepath.Join(bin, "swtpm-store")}
	h.clock = newClock(t, 24*time.Hour*time.Duration(1+h.pid%20))
	h.settings = "endpoints = " + c.Endpoints() + "\n" + settings
	h.configure("*", "*")
	h.Write("key", Key)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.Path("socket"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.Path("reconnect"), Net: "unixgram"})
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
	h.StartBroker()
	return h
}

// configure writes the broker's configuration, which lets a user use some states.
func (h *Host) configure(user, states string) {
	h.Write("store.toml", fmt.Sprintf("host = %q\ngenerations = 2\n%s\n[lease]\nttl = %q\nmargin = %q\n[[allow]]\nusers = [%q]\nstates = [%q]\n", h.Name, h.settings, TTL, Margin, user, states))
}

// Users restarts the broker, which lets this user use these states from now on.
func (h *Host) Users(user, states string) {
	h.configure(user, states)
	h.RestartBroker()
}

// RestartBroker kills the broker and starts it again.
func (h *Host) RestartBroker() {
	_ = h.Broker.Cmd.Process.Kill()
	<-h.Broker.Done
	h.StartBroker()
}

// Path returns the path of a file of the host.
func (h *Host) Path(name string) string { return filepath.Join(h.Dir, name) }

// Write writes a file of the host.
func (h *Host) Write(name, text string) {
	if err := os.WriteFile(h.Path(name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// StartBroker starts the broker with the sockets.
func (h *Host) StartBroker() {
	cmd := h.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" --config "$1"`, h.Program, h.Path("store.toml"))
	cmd.ExtraFiles = h.files
	cmd.Env = append(os.Environ(), "LISTEN_FDS=2", "RUNTIME_DIRECTORY="+h.Dir)
	cmd.Env = append(cmd.Env, h.Env...)
	h.Broker = harness.Start(h.t, cmd)
}

// Reboot starts the host again after a power cut: another boot ID, another clock, an empty
// /run.
func (h *Host) Reboot() {
	_ = os.Remove(h.Path("lease"))
	h.boot()
	h.clock = newClock(h.t, 24*time.Hour*time.Duration(1+time.Now().UnixNano()%20))
	h.StartBroker()
}

// Freeze stops a process that may have ended, until SIGCONT.
func Freeze(p *harness.Process) { _ = harness.Freeze(p.Cmd.Process.Pid) }

// Signal sends a signal to a process that may have ended.
func Signal(p *harness.Process, s syscall.Signal) { _ = p.Cmd.Process.Signal(s) }

// Instance is one process of a TPM.
type Instance struct {
	*harness.Process
	Host   *Host
	Socket string
	Number int // in the order of the starts of the world
}

var numbers atomic.Int32

// Launch starts a TPM process with this state.
func (h *Host) Launch(state string) *Instance {
	at := []string{"backend-uri=store://" + state, "--key", "file=" + h.Path("key")}
	if h.Plain {
		at = []string{"backend-uri=store://" + state + ",allow-plain"}
	}
	return h.launch(at...)
}

// Pace returns how long the start of a TPM takes that uses no store, as a control.
func (h *Host) Pace() time.Duration {
	begin := time.Now()
	i := h.launch("dir=" + harness.TempDir(h.t))
	i.Answers()
	took := time.Since(begin)
	_ = i.Cmd.Process.Kill()
	<-i.Done
	return took
}

func (h *Host) launch(at ...string) *Instance {
	if h.Broker.Ended() && h.Broker.Cmd.ProcessState.ExitCode() > 0 { // the store of a busy machine did not answer in time; systemd does the same
		h.StartBroker()
	}
	h.starts++
	i := &Instance{Host: h, Socket: h.Path(fmt.Sprintf("tpm%d", h.starts)), Number: int(numbers.Add(1))}
	cmd := h.Command(append(append([]string{filepath.Join(h.bin, "swtpm"), "socket", "--tpm2", "--tpmstate"}, at...),
		"--flags", "not-need-init,startup-clear", "--server", "type=unixio,path="+i.Socket)...)
	cmd.Env = append(os.Environ(), "SWTPM_STORE_SOCKET="+h.Path("socket"))
	i.Process = harness.Start(h.t, cmd)
	return i
}

// Answers waits until the TPM answers, and returns false if the process ends before.
func (i *Instance) Answers() bool {
	for end := time.Now().Add(harness.EventTimeout); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if i.Ended() {
			return false
		}
		conn, err := net.Dial("unix", i.Socket)
		if err != nil {
			continue
		}
		ok := random(conn)
		_ = conn.Close()
		if ok {
			return true
		}
	}
	return false
}

// random sends TPM2_GetRandom, and reports whether it succeeds.
func random(conn net.Conn) bool {
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	rsp := make([]byte, 20)
	_, err := conn.Write([]byte{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8})
	if err == nil {
		_, err = io.ReadFull(conn, rsp)
	}
	return err == nil && bytes.Equal(rsp[6:10], make([]byte, 4))
}

// Acquire starts the TPM as systemd does, until it answers. It fails after limit.
func (h *Host) Acquire(state string, limit time.Duration) (*Instance, error) {
	var last *Instance
	for begin := time.Now(); time.Since(begin) < limit; time.Sleep(50 * time.Millisecond) {
		i := h.Launch(state)
		if i.Answers() {
			return i, nil
		}
		_ = i.Cmd.Process.Kill()
		<-i.Done
		last = i
	}
	return nil, fmt.Errorf("host %s does not get state %s within %v: %s; broker: %s", h.Name, state, limit, last.Out.String(), h.Broker.Out.String())
}
