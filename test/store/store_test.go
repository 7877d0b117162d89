// Package store_test runs TPMs of several hosts on one cluster store, and breaks hosts,
// brokers and members of the store meanwhile. The histories of their clients must be
// linearizable: no acknowledged write is lost, and no two copies of a TPM answer.
package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// ttl is the time to live of a host's lease, and slack what a failover may take longer.
const (
	ttl   = 5 * time.Second
	slack = 2 * time.Second
)

// process is a program that runs.
type process struct {
	cmd *exec.Cmd
	out *bytes.Buffer
}

// start runs a program until the test ends.
func start(t *testing.T, files []*os.File, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{exec.Command(name, args...), &bytes.Buffer{}}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.ExtraFiles = files
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// member is a member of the store.
type member struct {
	*process
	args []string
}

// newCluster starts three members, and returns the URLs of their clients.
func newCluster(t *testing.T) ([]*member, string) {
	if _, err := exec.LookPath("etcd"); err != nil {
		if os.Getenv("SWTPM_TEST_REQUIRE") != "" {
			t.Fatal("etcd is missing: install etcd-server")
		}
		t.Skip("etcd is missing")
	}
	var ports [6]string
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports[i] = "http://" + l.Addr().String()
	}
	var peers, urls []string
	for i := range 3 {
		peers = append(peers, fmt.Sprintf("m%d=%s", i, ports[3+i]))
		urls = append(urls, strconv.Quote(ports[i]))
	}
	var all []*member
	for i := range 3 {
		m := &member{args: []string{
			"--name=m" + strconv.Itoa(i), "--data-dir=" + filepath.Join(t.TempDir(), "data"), "--listen-client-urls=" + ports[i], "--advertise-client-urls=" + ports[i],
			"--listen-peer-urls=" + ports[3+i], "--initial-advertise-peer-urls=" + ports[3+i], "--initial-cluster=" + strings.Join(peers, ","),
			"--unsafe-no-fsync", "--logger=zap", "--log-level=error", "--heartbeat-interval=100", "--election-timeout=1000",
		}}
		all = append(all, m)
	}
	return all, strings.Join(urls, ", ")
}

func (m *member) start(t *testing.T) { m.process = start(t, nil, nil, "etcd", m.args...) }

// host has a broker, whose sockets outlive it, and perhaps the TPM.
type host struct {
	t       *testing.T
	name    string
	dir     string
	files   []*os.File
	broker  *process
	tpm     *process
	program string
}

func newHost(t *testing.T, n int, bin, endpoints string) *host {
	h := &host{t: t, name: fmt.Sprintf("host%d", n), dir: t.TempDir(), program: bin}
	config := fmt.Sprintf("endpoints = [%s]\nhost = %q\n[lease]\nttl = %q\nmargin = \"1s\"\n[[allow]]\nusers = [\"*\"]\nstates = [\"*\"]\n", endpoints, h.name, ttl)
	if err := os.WriteFile(filepath.Join(h.dir, "store.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(h.dir, "socket"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(h.dir, "reconnect"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []interface{ File() (*os.File, error) }{l, c} {
		file, err := f.File()
		if err != nil {
			t.Fatal(err)
		}
		h.files = append(h.files, file)
	}
	h.startBroker()
	return h
}

// startBroker starts the broker as systemd does.
func (h *host) startBroker() {
	h.broker = start(h.t, h.files, []string{"LISTEN_FDS=2", "RUNTIME_DIRECTORY=" + h.dir}, "sh", "-c", `LISTEN_PID=$$ exec "$0" --config "$1"`,
		filepath.Join(h.program, "swtpm-store"), filepath.Join(h.dir, "store.toml"))
}

// startTPM starts the TPM, which may still belong to another host for a while.
func (h *host) startTPM(limit time.Duration) {
	h.t.Helper()
	for begin := time.Now(); ; {
		_ = os.Remove(h.socket())
		p := start(h.t, nil, []string{"SWTPM_STORE_SOCKET=" + filepath.Join(h.dir, "socket")}, filepath.Join(h.program, "swtpm"), "socket", "--tpm2",
			"--tpmstate", "backend-uri=store://vm1,allow-plain", "--flags", "not-need-init,startup-clear", "--server", "type=unixio,path="+h.socket())
		for range 600 {
			conn, err := net.Dial("unix", h.socket())
			if err == nil {
				_, err = (&link{conn}).Send([]byte{0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8})
				_ = conn.Close()
				if err == nil {
					h.tpm = p
					return
				}
			}
			if p.cmd.Process.Signal(syscall.Signal(0)) != nil || exited(p) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		p.kill()
		if time.Since(begin) > limit {
			h.t.Fatalf("%s: the TPM does not start within %v: %s\nbroker: %s", h.name, limit, p.out, h.broker.out)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// exited reports whether the process has ended.
func exited(p *process) bool {
	var info [128]byte
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	copy(info[:], b)
	return err != nil || bytes.Contains(b, []byte(") Z "))
}

func (h *host) socket() string { return filepath.Join(h.dir, "tpm") }

// link is the connection of a client to a TPM.
type link struct{ net.Conn }

// Send implements transport.TPM.
func (l *link) Send(cmd []byte) ([]byte, error) {
	_ = l.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := l.Write(cmd); err != nil {
		return nil, err
	}
	rsp := make([]byte, 4096)
	n, err := io.ReadAtLeast(l, rsp, 10)
	return rsp[:n], err
}

const index = tpm2.TPMHandle(0x01500001)

func define(t *testing.T, tpm transport.TPM) {
	t.Helper()
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, AuthWrite: true, NoDA: true, NT: tpm2.TPMNTCounter}}),
	}.Execute(tpm)
	if err == nil {
		_, err = increment(tpm)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func increment(tpm transport.TPM) (uint64, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
	if err != nil {
		return 0, err
	}
	_, err = tpm2.NVIncrement{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NVIndex: tpm2.NamedHandle{Handle: index, Name: public.NVName}}.Execute(tpm)
	return 0, err
}

func read(tpm transport.TPM) (uint64, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
	if err != nil {
		return 0, err
	}
	rsp, err := tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NVIndex: tpm2.NamedHandle{Handle: index, Name: public.NVName}, Size: 8}.Execute(tpm)
	if err != nil {
		return 0, err
	}
	var n uint64
	for _, b := range rsp.Data.Buffer {
		n = n<<8 | uint64(b)
	}
	return n, nil
}

// history is what the clients did. An increment without an answer that says success may
// have happened at any later time, or never: it ends with the history.
type history struct {
	mu   sync.Mutex
	all  []porcupine.Operation
	open []int // indexes of the increments without an answer
}

const (
	opRead = iota
	opIncrement
)

func (h *history) run(client, op int, f func(transport.TPM) (uint64, error), tpm transport.TPM) error {
	begin := time.Now().UnixNano()
	n, err := f(tpm)
	end := time.Now().UnixNano()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		h.all = append(h.all, porcupine.Operation{ClientId: client, Input: op, Call: begin, Output: n, Return: end})
	case op == opIncrement:
		h.open = append(h.open, len(h.all))
		h.all = append(h.all, porcupine.Operation{ClientId: 1000 + len(h.all), Input: op, Call: begin, Output: n})
	}
	return err
}

// check fails the test unless the history is linearizable.
func (h *history) check(t *testing.T, first uint64) {
	t.Helper()
	end := time.Now().UnixNano()
	for _, i := range h.open {
		h.all[i].Return = end
	}
	model := porcupine.Model{
		Init: func() any { return first },
		Step: func(state, input, output any) (bool, any) {
			if input == opIncrement {
				return true, state.(uint64) + 1
			}
			return output == state, state
		},
	}
	result := porcupine.CheckOperationsTimeout(model, h.all, time.Minute)
	t.Logf("%d operations, %d without an answer: %s", len(h.all), len(h.open), result)
	if result != porcupine.Ok {
		t.Errorf("the history of %d operations is not linearizable: %s", len(h.all), result)
	}
}

// clients use the TPM of h until stop is closed.
func (h *host) clients(log *history, stop chan struct{}) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			conn, err := net.Dial("unix", h.socket())
			if err != nil {
				return
			}
			defer conn.Close()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				op, f := opRead, read
				if n%2 == i {
					op, f = opIncrement, increment
				}
				if err := log.run(i, op, f, &link{conn}); errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || os.IsTimeout(err) {
					return
				}
			}
		})
	}
	return &wg
}

// episodes returns the number of episodes, from the environment.
func episodes(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("SWTPM_STORE_EPISODES"))
	if err != nil {
		t.Skip("SWTPM_STORE_EPISODES is not set; see make store")
	}
	return n
}

// TestEpisodes moves a TPM between three hosts, each time after another fault.
func TestEpisodes(t *testing.T) {
	count := episodes(t)
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin, "../../cmd/swtpm", "../../cmd/swtpm-store").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	members, endpoints := newCluster(t)
	for _, m := range members {
		m.start(t)
	}
	var hosts []*host
	for n := range 3 {
		hosts = append(hosts, newHost(t, n, bin, endpoints))
	}
	hosts[0].startTPM(30 * time.Second)
	conn, err := net.Dial("unix", hosts[0].socket())
	if err != nil {
		t.Fatal(err)
	}
	define(t, &link{conn})
	first, err := read(&link{conn})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	log := &history{}
	at := hosts[0]
	for n := range count {
		stop := make(chan struct{})
		running := at.clients(log, stop)
		time.Sleep(500 * time.Millisecond)
		next := hosts[(n+1)%len(hosts)]
		at = episode(t, n, at, next, members, func() { close(stop); running.Wait() })
	}
	stop := make(chan struct{})
	running := at.clients(log, stop)
	time.Sleep(500 * time.Millisecond)
	close(stop)
	running.Wait()
	log.check(t, first)
}

// episode breaks something, and returns the host that has the TPM afterwards.
func episode(t *testing.T, n int, at, next *host, members []*member, stop func()) *host {
	t.Helper()
	began := time.Now()
	switch n % 5 {
	case 0: // the host dies
		at.tpm.kill()
		at.broker.kill()
		stop()
		next.startTPM(ttl + slack + 3*time.Second)
		at.startBroker()
		t.Logf("episode %d: host died, failover took %v", n, time.Since(began).Round(time.Millisecond))
		return next
	case 1: // the host stops, another one gets the TPM, the host continues
		at.tpm.signal(syscall.SIGSTOP)
		at.broker.signal(syscall.SIGSTOP)
		next.startTPM(ttl + slack + 3*time.Second)
		t.Logf("episode %d: host stopped, failover took %v", n, time.Since(began).Round(time.Millisecond))
		at.tpm.signal(syscall.SIGCONT)
		at.broker.signal(syscall.SIGCONT)
		time.Sleep(time.Second)
		stop()
		at.tpm.kill()
		return next
	case 2: // the broker is killed and restarted under the TPM
		at.broker.kill()
		at.startBroker()
		time.Sleep(time.Second)
		stop()
		return at
	case 3: // a member dies, and comes back
		m := members[n%len(members)]
		m.kill()
		time.Sleep(2 * time.Second)
		m.start(t)
		stop()
		return at
	}
	// The TPM is killed; it starts again on the same host at once.
	at.tpm.kill()
	stop()
	at.startTPM(ttl)
	return at
}
