package store_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// network is a bridge in a namespace of its own, to which nodes are connected.
type network struct {
	t  *testing.T
	sw *space
	n  atomic.Int32 // nodes
}

// space is a set of namespaces, which end with the process that keeps them.
type space struct {
	pid int
}

// newSpace makes network and mount namespaces, and runs a script of the shell in them.
func newSpace(t *testing.T, script string) *space { return unshare(t, script, "--net", "--mount") }

// newClock makes a clock namespace, in which the machine was booted so much earlier.
func newClock(t *testing.T, older time.Duration) *space {
	n := strconv.FormatInt(int64(older/time.Second), 10)
	return unshare(t, "true", "--time", "--boottime="+n, "--monotonic="+n)
}

func unshare(t *testing.T, script string, kinds ...string) *space {
	t.Helper()
	cmd := exec.Command("unshare", append(kinds, "--fork", "--kill-child", "sh", "-c", script+` && echo "pid $$" && exec sleep infinity`)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := harness.Start(t, cmd)
	s := &space{}
	harness.Await(t, "namespaces", func() bool {
		for line := range strings.Lines(p.Out.String()) {
			if word, ok := strings.CutPrefix(strings.TrimSpace(line), "pid "); ok {
				s.pid, _ = strconv.Atoi(word)
			}
		}
		if p.Ended() {
			t.Fatalf("unshare: %s", p.Out.String())
		}
		return s.pid != 0
	})
	return s
}

// enter returns the words before a command that runs in the namespaces.
func (s *space) enter() []string {
	return []string{"nsenter", "--target", strconv.Itoa(s.pid), "--net", "--mount", "--"}
}

// sh runs a script in the namespaces.
func (s *space) sh(t *testing.T, script string) {
	t.Helper()
	words := append(s.enter(), "sh", "-ec", script)
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", script, err, out)
	}
}

// dial connects from the network namespace.
func (s *space) dial(ctx context.Context, address string) (net.Conn, error) {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	other, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", s.pid))
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer other.Close()
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread() // otherwise the thread ends with the goroutine
	}
	return conn, err
}

func newNetwork(t *testing.T) *network {
	return &network{t: t, sw: newSpace(t, "ip link add br0 type bridge && ip link set br0 up && ip addr add 10.9.0.1/16 dev br0")}
}

// node is a machine: a set of namespaces with a link to the network.
type node struct {
	*space
	t     *testing.T
	sw    *space
	name  string
	port  string // the switch's end of the link
	ip    string
	dir   string
	clock *space // nil for the machine's clock
}

// add connects a new node. /var/lib is a tmpfs of its own of size bytes.
func (n *network) add(t *testing.T, name string, size int) *node {
	t.Helper()
	i := int(n.n.Add(1))
	d := &node{t: t, sw: n.sw, name: name, port: fmt.Sprintf("p%d", i), ip: fmt.Sprintf("10.9.1.%d", i), dir: harness.TempDir(t)}
	d.boot()
	d.space = newSpace(t, fmt.Sprintf("mount -t tmpfs -o size=%d tmpfs /var/lib && mount --bind %s /proc/sys/kernel/random/boot_id", size, d.bootID()))
	n.sw.sh(t, fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d; ip link set %s master br0 up", d.port, d.pid, d.port))
	d.sh(t, fmt.Sprintf("ip addr add %s/16 dev eth0; ip link set eth0 up; ip link set lo up", d.ip))
	return d
}

func (d *node) bootID() string { return filepath.Join(d.dir, "boot_id") }

// boot gives the node another boot ID.
func (d *node) boot() {
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err == nil {
		err = os.WriteFile(d.bootID(), bytes.TrimSpace(id), 0o644)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// command returns a command that runs on the node.
func (d *node) command(words ...string) *exec.Cmd {
	in := d.enter()
	if d.clock != nil {
		in = append([]string{"nsenter", "--target", strconv.Itoa(d.clock.pid), "--time", "--"}, in...)
	}
	words = append(in, words...)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// cut is a way to separate a node from the network.
type cut struct {
	name      string
	off, heal func(d *node)
}

var (
	cable = cut{"cable pulled",
		func(d *node) { d.sw.sh(d.t, "ip link set "+d.port+" down") },
		func(d *node) { d.sw.sh(d.t, "ip link set "+d.port+" up") }}
	drop   = rules("packets dropped", "INPUT -i eth0", "OUTPUT -o eth0")
	deaf   = rules("incoming packets dropped", "INPUT -i eth0")
	mute   = rules("outgoing packets dropped", "OUTPUT -o eth0")
	reject = rules("connections reset", "OUTPUT -o eth0 -p tcp -j REJECT --reject-with tcp-reset")
)

// rules is a cut by rules of iptables.
func rules(name string, all ...string) cut {
	apply := func(verb string) func(d *node) {
		return func(d *node) {
			for _, r := range all {
				if !strings.Contains(r, " -j ") {
					r += " -j DROP"
				}
				d.sh(d.t, "iptables -w "+verb+" "+r)
			}
		}
	}
	return cut{name, apply("-A"), apply("-D")}
}
