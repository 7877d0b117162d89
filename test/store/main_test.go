// Package store_test runs TPMs of several hosts on one cluster store, and breaks hosts,
// brokers, networks and members of the store meanwhile. The histories of their clients must
// be linearizable: no acknowledged write is lost, and no two copies of a TPM answer.
//
// Each host and each member has network, mount and clock namespaces of its own, so the
// tests need root. They end with the process of the test.
package store_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

const (
	// ttl is the time to live of a host's lease, the shortest that the broker accepts, and
	// margin is how much earlier a TPM stops to answer.
	ttl    = 5 * time.Second
	margin = time.Second

	// slack is what a failover may take longer than the ttl.
	slack = 2 * time.Second

	// busy is added to slack, because the machine that runs the test has other work.
	busy = 4 * time.Second
)

// bin is the directory of the programs.
var bin string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	if err := harness.Build(dir, nil, "swtpm", "swtpm-admin", "swtpm-setup", "swtpm-store"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// needCluster skips the test without root or etcd.
func needCluster(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	if os.Geteuid() != 0 {
		harness.Missing(t, "namespaces need root")
	}
	harness.Need(t, "etcd", "etcd-server")
	harness.Need(t, "nsenter", "util-linux")
	harness.Need(t, "ip", "iproute2")
	harness.Need(t, "iptables", "iptables")
}
