// Package lab makes clusters of etcd and hosts with brokers for tests. Each host and each
// member has network, mount and clock namespaces of its own, so it needs root. They end with
// the process of the test.
package lab

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

// Network is a bridge in a namespace of its own, to which nodes are connected.
type Network struct {
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

func newNetwork(t *testing.T) *Network {
	return &Network{t: t, sw: newSpace(t, "ip link add br0 type bridge && ip link set br0 up && ip addr add 10.9.0.1/16 dev br0")}
}

// Node is a machine: a set of namespaces with a link to the network.
type Node struct {
	*space
	t     *testing.T
	sw    *space
	Name  string
	port  string // the switch's end of the link
	IP    string
	Dir   string
	clock *space // nil for the machine's clock
}

// add connects a new node. /var/lib is a tmpfs of its own of size bytes.
func (n *Network) add(t *testing.T, name string, size int) *Node {
	t.Helper()
	i := int(n.n.Add(1))
	d := &Node{t: t, sw: n.sw, Name: name, port: fmt.Sprintf("p%d", i), IP: fmt.Sprintf("10.9.1.%d", i), Dir: harness.TempDir(t)}
	d.boot()
	d.space = newSpace(t, fmt.Sprintf("mount -t tmpfs -o size=%d tmpfs /var/lib && mount --bind %s /proc/sys/kernel/random/boot_id", size, d.bootID()))
	n.sw.sh(t, fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d; ip link set %s master br0 up", d.port, d.pid, d.port))
	d.Sh(fmt.Sprintf("ip addr add %s/16 dev eth0; ip link set eth0 up; ip link set lo up", d.IP))
	return d
}

func (d *Node) bootID() string { return filepath.Join(d.Dir, "boot_id") }

// boot gives the node another boot ID.
func (d *Node) boot() {
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err == nil {
		err = os.WriteFile(d.bootID(), bytes.TrimSpace(id), 0o644)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// Sh runs a script on the node.
func (d *Node) Sh(script string) {
	d.t.Helper()
	d.space.sh(d.t, script)
}

// Command returns a command that runs on the node.
func (d *Node) Command(words ...string) *exec.Cmd {
	in := d.enter()
	if d.clock != nil {
		in = append([]string{"nsenter", "--target", strconv.Itoa(d.clock.pid), "--time", "--"}, in...)
	}
	words = append(in, words...)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Cut is a way to separate a node from the network.
type Cut struct {
	Name      string
	Off, Heal func(d *Node)
}

// Cable, Drop, Deaf, Mute and Reject are the ways to separate a node.
var (
	Cable = Cut{"cable pulled",
		func(d *Node) { d.sw.sh(d.t, "ip link set "+d.port+" down") },
		func(d *Node) { d.sw.sh(d.t, "ip link set "+d.port+" up") }}
	Drop   = rules("packets dropped", "INPUT -i eth0", "OUTPUT -o eth0")
	Deaf   = rules("incoming packets dropped", "INPUT -i eth0")
	Mute   = rules("outgoing packets dropped", "OUTPUT -o eth0")
	Reject = rules("connections reset", "OUTPUT -o eth0 -p tcp -j REJECT --reject-with tcp-reset")
)

// rules is a cut by rules of iptables.
func rules(name string, all ...string) Cut {
	apply := func(verb string) func(d *Node) {
		return func(d *Node) {
			for _, r := range all {
				if !strings.Contains(r, " -j ") {
					r += " -j DROP"
				}
				d.Sh("iptables -w " + verb + " " + r)
			}
		}
	}
	return Cut{name, apply("-A"), apply("-D")}
}
