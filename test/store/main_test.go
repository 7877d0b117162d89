// Package store_test runs TPMs of several hosts on one cluster store, and breaks hosts,
// brokers, networks and members of the store meanwhile. The histories of their clients must
// be linearizable: no acknowledged write is lost, and no two copies of a TPM answer.
package store_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/store/lab"
)

const (
	ttl, margin = lab.TTL, lab.Margin

	// slack is what a failover may take longer than the ttl.
	slack = 2 * time.Second

	// busy is added to slack in what must happen, because the machine that runs the test has other work.
	// The times that a failover may take are in report.
	busy = harness.EventTimeout
)

// bin is the directory of the programs.
var bin string

func TestMain(m *testing.M) {
	if os.Getenv(brokerVar) != "" {
		fmt.Fprintln(os.Stderr, runBroker())
		os.Exit(1)
	}
	os.Exit(buildAndRun(m))
}

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
