// Package fuzzlive_test sends random and mutated bytes, structured requests with wrong
// lengths, unsolicited descriptors, floods and disconnects to both channels
// of a running emulator at once, with every kind of log. The process must live, answer
// proper clients all the time, and have no more memory, descriptors and threads at the
// end than after a while.
//
// It runs for the time in $SWTPM_FUZZLIVE with each version of TPM, and is skipped
// without: make fuzzlive. Each failure prints the seed; what the workers
// send follows from it: SWTPM_FUZZLIVE_SEED=N repeats it, but for what depends on the
// time.
package fuzzlive_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// swtpm is the program under test.
var swtpm string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuzzlive:", err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	if os.Getenv("SWTPM_FUZZLIVE") == "" {
		return m.Run(), nil
	}
	dir, err := os.MkdirTemp("", "fuzzlive-bin")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	swtpm = filepath.Join(dir, "swtpm")
	var flags []string
	if f := os.Getenv("SWTPM_TEST_BUILDFLAGS"); f != "" {
		flags = []string{f}
	}
	if err := harness.Build(dir, flags, "swtpm"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// arrangements are the ways in which the emulator runs: each kind of channel and each
// kind of log.
var arrangements = []arrangement{
	{name: "unix, log in a file", args: []string{"--log", "file=log,level=20"}},
	{name: "tcp, log to a pipe", tcp: true, log: logPipe},
	{name: "unix, log to dev-null", args: []string{"--log", "level=20"}, log: logNull},
	{name: "unix, recorded", args: []string{"--pcap", "file=pcap", "--log", "file=log"}},
	{name: "tcp, recorded without secrets, log on a terminal", tcp: true, args: []string{"--pcap", "file=pcap,redact", "--log", "level=20"}, log: logTerminal},
	{name: "data channel from the control channel", noData: true, args: []string{"--log", "file=log,level=5"}},
	{name: "log in a file that cannot grow", args: []string{"--log", "file=/dev/full,level=20"}},
	{name: "backup and encryption", args: []string{"--key", "file=key,format=binary,mode=aes-256-cbc", "--log", "file=-,level=2"}, log: logPipe},
}

// TestLive checks that a TPM of each version survives the workers, answers proper clients, and
// does not grow.
func TestLive(t *testing.T) {
	text := os.Getenv("SWTPM_FUZZLIVE")
	if text == "" {
		t.Skip("$SWTPM_FUZZLIVE is not set: run make fuzzlive")
	}
	total, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	if s := os.Getenv("SWTPM_FUZZLIVE_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []version{v12, v20} {
		for _, a := range arrangements {
			t.Run(fmt.Sprintf("%s/%s", v, a.name), func(t *testing.T) {
				t.Logf("seed %d", seed)
				fuzz(t, v, a, seed, total/time.Duration(len(arrangements)))
			})
		}
	}
}

// fuzz runs the workers: a third of the time until the process has reached its size, and the
// rest, in which it must not grow.
func fuzz(t *testing.T, v version, a arrangement, seed uint64, total time.Duration) {
	e := launch(t, v, a)
	e.proper(t)
	time.Sleep(time.Second) // the clients of proper are forgotten
	fds := e.usage().fds + lateFDs
	f := newFleet(e, seed)
	f.run(t, total/3)
	before := e.settled(t, fds)
	f.run(t, total-total/3)
	after := e.settled(t, fds)
	t.Logf("%d connections and %d commands and requests; %v, then %v", f.connections.Load(), f.sent.Load(), before, after)
	for _, u := range []usage{before, after} {
		if u.fds > fds {
			t.Errorf("%d descriptors are open without clients, want at most %d: %q", u.fds, fds, e.openFiles())
		}
	}
	if after.threads > before.threads+maxThreads {
		t.Errorf("%d threads, were %d", after.threads, before.threads)
	}
	if after.residentKiB > before.residentKiB+maxGrowthKiB && os.Getenv("SWTPM_TEST_BUILDFLAGS") != "-race" {
		t.Errorf("%d KiB of memory, were %d; want at most %d more", after.residentKiB, before.residentKiB, maxGrowthKiB)
	}
	e.idle(t)
	e.proper(t)
	e.terminate(t)
	if t.Failed() {
		f.dump(t)
	}
}
