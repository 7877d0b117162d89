package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/swtpm-go/swtpm/test/harness"
)

const (
	// TTL is the time to live of a host's lease, the shortest that the broker accepts, and
	// Margin is how much earlier a TPM stops to answer.
	TTL    = 5 * time.Second
	Margin = time.Second

	// Election is how long the members wait before they elect another leader. Leases last so much
	// longer after an election.
	Election = time.Second
)

// Need skips the test without root or a program that it needs.
func Need(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		harness.Missing(t, "namespaces need root")
	}
	harness.Need(t, "etcd", "etcd-server")
	harness.Need(t, "etcdctl", "etcd-client")
	harness.Need(t, "nsenter", "util-linux")
	harness.Need(t, "ip", "iproute2")
	harness.Need(t, "iptables", "iptables")
}

// Member is a member of the store on a node of its own.
type Member struct {
	*Node
	*harness.Process
	args []string
}

// Cluster is a store with its members.
type Cluster struct {
	t       *testing.T
	net     *Network
	Members []*Member
	Client  *clientv3.Client
}

// NewCluster starts members. Their data is in memory, so their syncs cost nothing.
func NewCluster(t *testing.T, count int, options ...string) *Cluster {
	Need(t)
	c := &Cluster{t: t, net: newNetwork(t)}
	var peers []string
	for i := range count {
		m := &Member{Node: c.net.add(t, fmt.Sprintf("m%d", i), 1<<30)}
		c.Members = append(c.Members, m)
		peers = append(peers, fmt.Sprintf("%s=http://%s:2380", m.Name, m.IP))
	}
	for _, m := range c.Members {
		client, peer := "http://"+m.IP+":2379", "http://"+m.IP+":2380"
		m.args = append([]string{"etcd", "--name=" + m.Name, "--data-dir=/var/lib/etcd", "--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=" + strings.Join(peers, ","),
			"--logger=zap", "--log-level=error", "--heartbeat-interval=100", fmt.Sprintf("--election-timeout=%d", Election.Milliseconds()), "--max-wals=2", "--max-snapshots=2", "--snapshot-count=5000"}, options...)
		m.Start()
	}
	c.connect()
	return c
}

// Errorf fails the test.
func (c *Cluster) Errorf(format string, args ...any) { c.t.Errorf(format, args...) }

// Start starts the member again.
func (m *Member) Start() { m.Process = harness.Start(m.t, m.Command(m.args...)) }

// URL returns the address for clients.
func (m *Member) URL() string { return m.IP + ":2379" }

// connect opens the client of the test, which is on the switch.
func (c *Cluster) connect() {
	var endpoints []string
	for _, m := range c.Members {
		endpoints = append(endpoints, m.URL())
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.net.sw.dial(ctx, address) })},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.Client = client
	c.t.Cleanup(func() { _ = client.Close() })
	c.Healthy()
	ctx, cancel := context.WithCancel(context.Background())
	c.t.Cleanup(cancel)
	go c.compact(ctx)
}

// compact removes old revisions from time to time.
func (c *Cluster) compact(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
			one, cancel := context.WithTimeout(ctx, time.Second)
			if rsp, err := c.Client.Get(one, "x"); err == nil {
				_, _ = c.Client.Compact(one, max(rsp.Header.Revision-100, 1))
			}
			cancel()
		}
	}
}

// Healthy waits until each member answers reads, which need a quorum.
func (c *Cluster) Healthy() {
	c.t.Helper()
	for _, m := range c.Members {
		harness.Await(c.t, "member "+m.Name, func() bool {
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
			defer cancel()
			if m.Ended() {
				c.t.Fatalf("member %s has ended: %s", m.Name, m.Out.String())
			}
			rsp, err := c.Client.Status(ctx, m.URL())
			if err != nil || rsp.Leader == 0 || len(rsp.Errors) > 0 {
				return false
			}
			_, err = c.Client.Get(ctx, "x")
			return err == nil
		})
	}
}

// Leader returns the member that leads, and the others.
func (c *Cluster) Leader() (*Member, []*Member) {
	c.t.Helper()
	lead := -1
	harness.Await(c.t, "a leader", func() bool {
		for i, m := range c.Members {
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
			rsp, err := c.Client.Status(ctx, m.URL())
			cancel()
			if err == nil && rsp.Leader == rsp.Header.MemberId {
				lead = i
			}
		}
		return lead >= 0
	})
	var rest []*Member
	for i, m := range c.Members {
		if i != lead {
			rest = append(rest, m)
		}
	}
	return c.Members[lead], rest
}

// Alarm raises the alarm that etcd raises itself when its quota is exceeded; clear ends it.
func (c *Cluster) Alarm(m *Member) (clear func()) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	status, err := c.Client.Status(ctx, m.URL())
	if err == nil {
		_, err = pb.NewMaintenanceClient(c.Client.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{
			Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: status.Header.MemberId})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return func() {
		ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
		defer cancel()
		if _, err := c.Client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Endpoints returns the members' URLs as a value of the broker's configuration.
func (c *Cluster) Endpoints() string {
	var urls []string
	for _, m := range c.Members {
		urls = append(urls, strconv.Quote("http://"+m.URL()))
	}
	return "[" + strings.Join(urls, ", ") + "]"
}

// Dump returns a snapshot of the store's database.
func (c *Cluster) Dump() []byte {
	c.t.Helper()
	file := c.Members[0].Dir + "/snapshot"
	cmd := c.Members[0].Command("etcdctl", "--endpoints", c.Members[0].URL(), "snapshot", "save", file)
	cmd.Env = append(cmd.Environ(), "ETCDCTL_API=3")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %v: %s", cmd, err, out)
	}
	return []byte(harness.Read(c.t, file))
}
