package store_test

import (
	"context"
	"fmt"
	"net"
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

// member is a member of the store on a node of its own.
type member struct {
	*node
	*harness.Process
	args []string
}

// cluster is a store with its members.
type cluster struct {
	t       *testing.T
	net     *network
	members []*member
	client  *clientv3.Client
}

// newCluster starts members. Their data is in memory, so their syncs cost nothing.
func newCluster(t *testing.T, count int, options ...string) *cluster {
	needCluster(t)
	c := &cluster{t: t, net: newNetwork(t)}
	var peers []string
	for i := range count {
		m := &member{node: c.net.add(t, fmt.Sprintf("m%d", i), 1<<30)}
		c.members = append(c.members, m)
		peers = append(peers, fmt.Sprintf("%s=http://%s:2380", m.name, m.ip))
	}
	for _, m := range c.members {
		client, peer := "http://"+m.ip+":2379", "http://"+m.ip+":2380"
		m.args = append([]string{"etcd", "--name=" + m.name, "--data-dir=/var/lib/etcd", "--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=" + strings.Join(peers, ","),
			"--logger=zap", "--log-level=error", "--heartbeat-interval=100", "--election-timeout=1000", "--max-wals=2", "--max-snapshots=2", "--snapshot-count=5000"}, options...)
		m.start()
	}
	c.connect()
	return c
}

func (m *member) start() { m.Process = harness.Start(m.t, m.command(m.args...)) }

func (m *member) url() string { return m.ip + ":2379" }

// connect opens the client of the test, which is on the switch.
func (c *cluster) connect() {
	var endpoints []string
	for _, m := range c.members {
		endpoints = append(endpoints, m.url())
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return c.net.sw.dial(ctx, address) })},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.client = client
	c.t.Cleanup(func() { _ = client.Close() })
	c.healthy()
	ctx, cancel := context.WithCancel(context.Background())
	c.t.Cleanup(cancel)
	go c.compact(ctx)
}

// compact removes old revisions from time to time.
func (c *cluster) compact(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
			one, cancel := context.WithTimeout(ctx, time.Second)
			if rsp, err := c.client.Get(one, "x"); err == nil {
				_, _ = c.client.Compact(one, max(rsp.Header.Revision-100, 1))
			}
			cancel()
		}
	}
}

// healthy waits until each member answers reads, which need a quorum.
func (c *cluster) healthy() {
	c.t.Helper()
	for _, m := range c.members {
		harness.Await(c.t, "member "+m.name, func() bool {
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
			defer cancel()
			if m.Ended() {
				c.t.Fatalf("member %s has ended: %s", m.name, m.Out.String())
			}
			rsp, err := c.client.Status(ctx, m.url())
			if err != nil || rsp.Leader == 0 || len(rsp.Errors) > 0 {
				return false
			}
			_, err = c.client.Get(ctx, "x")
			return err == nil
		})
	}
}

// leader returns the member that leads, and the others.
func (c *cluster) leader() (*member, []*member) {
	c.t.Helper()
	lead := -1
	harness.Await(c.t, "a leader", func() bool {
		for i, m := range c.members {
			ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
			rsp, err := c.client.Status(ctx, m.url())
			cancel()
			if err == nil && rsp.Leader == rsp.Header.MemberId {
				lead = i
			}
		}
		return lead >= 0
	})
	var rest []*member
	for i, m := range c.members {
		if i != lead {
			rest = append(rest, m)
		}
	}
	return c.members[lead], rest
}

// alarm raises the alarm that etcd raises itself when its quota is exceeded; clear ends it.
func (c *cluster) alarm(m *member) (clear func()) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	status, err := c.client.Status(ctx, m.url())
	if err == nil {
		_, err = pb.NewMaintenanceClient(c.client.ActiveConnection()).Alarm(ctx, &pb.AlarmRequest{
			Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE, MemberID: status.Header.MemberId})
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return func() {
		ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
		defer cancel()
		if _, err := c.client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// endpoints returns the members' URLs as a value of the broker's configuration.
func (c *cluster) endpoints() string {
	var urls []string
	for _, m := range c.members {
		urls = append(urls, strconv.Quote("http://"+m.url()))
	}
	return "[" + strings.Join(urls, ", ") + "]"
}

// dump returns a snapshot of the store's database.
func (c *cluster) dump() []byte {
	c.t.Helper()
	file := c.members[0].dir + "/snapshot"
	cmd := c.members[0].command("etcdctl", "--endpoints", c.members[0].url(), "snapshot", "save", file)
	cmd.Env = append(cmd.Environ(), "ETCDCTL_API=3")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %v: %s", cmd, err, out)
	}
	return []byte(harness.Read(c.t, file))
}
