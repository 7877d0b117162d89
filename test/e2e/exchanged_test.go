package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// neighbours are the TPMs of one host, each in a directory of its own.
type neighbours struct {
	root  string
	wraps map[string][]string // by policy
}

func newNeighbours(t *testing.T) *neighbours {
	t.Helper()
	settings, _ := host(t, "warn")
	return &neighbours{harness.TempDir(t), map[string][]string{
		"warn": onHost(t, settings), "refuse": onHost(t, strings.Replace(settings, "warn", "refuse", 1)),
	}}
}

func (n *neighbours) path(name string) string { return filepath.Join(n.root, name) }

// lives runs the TPM in a directory through a store, and reports whether it starts, and how
// many lines of the log say that it is in the place of another TPM.
func (n *neighbours) lives(t *testing.T, name, policy string, args ...string) (starts bool, alarms int) {
	t.Helper()
	if err := os.MkdirAll(n.path(name), 0o700); err != nil {
		t.Fatal(err)
	}
	e := start(t, setup{tpm: v20, state: n.path(name), wrap: n.wraps[policy], args: args})
	c := e.control(t)
	starts = c.Init(0) == nil
	_ = c.Close()
	if starts {
		ch := e.open(t, v20).withStartup(t)
		ch.define(t)
		ch.ok(t, "8002 0000001f 00000122 40000001 01800001 00000009 40000009 0000 00 0000") // TPM2_NV_UndefineSpace
		_ = ch.Close()
	}
	e.terminate(t)
	log := harness.Read(t, e.log)
	if strings.Contains(log, "old state") || strings.Contains(log, "mixed state") {
		t.Errorf("%s: %s", name, log)
	}
	alarms = strings.Count(log, "state of another TPM: TPM ")
	if n := strings.Count(log, "; put both states back if they were exchanged by mistake, or, if this state is wanted, run: swtpm state accept"); n != alarms {
		t.Errorf("%s: %d alarms with advice, want %d: %s", name, n, alarms, log)
	}
	return starts, alarms
}

// quiet runs the TPM in a directory, and checks that it raises no alarm.
func (n *neighbours) quiet(t *testing.T, name string, args ...string) {
	t.Helper()
	if starts, alarms := n.lives(t, name, "refuse", args...); !starts || alarms != 0 {
		t.Errorf("%s: starts: %t, %d alarms, want none", name, starts, alarms)
	}
}

func (n *neighbours) rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(n.path(from), n.path(to)); err != nil {
		t.Fatal(err)
	}
}

func (n *neighbours) exchange(t *testing.T, a, b string) {
	t.Helper()
	n.rename(t, a, "between")
	n.rename(t, b, a)
	n.rename(t, "between", b)
}

// verb runs a verb of swtpm state on the host.
func (n *neighbours) verb(t *testing.T, args ...string) string {
	t.Helper()
	w := n.wraps["refuse"]
	return mustRun(t, w[0], append(append(w[1:len(w):len(w)], ours("swtpm"), "state"), args...)...)
}

// TestExchangedDirectories checks that a host notices when the whole states of two TPMs have
// exchanged their places, and that moves and our own verbs raise no alarm.
func TestExchangedDirectories(t *testing.T) {
	t.Parallel()
	n := newNeighbours(t)
	key := []string{"--key", "file=" + filepath.Join(mustGetwd(t), "testdata/key256.hex") + ",mode=aes-256-cbc"}
	n.quiet(t, "a")
	n.quiet(t, "b")
	n.quiet(t, "a")

	n.exchange(t, "a", "b")
	for range 2 { // the warning stays
		for _, name := range []string{"a", "b"} {
			if starts, alarms := n.lives(t, name, "warn"); !starts || alarms != 1 {
				t.Errorf("exchanged, %s: starts: %t, %d alarms, want 1", name, starts, alarms)
			}
		}
	}
	for _, name := range []string{"a", "b"} {
		if starts, alarms := n.lives(t, name, "refuse"); starts || alarms != 1 {
			t.Errorf("exchanged, %s, to be refused: starts: %t, %d alarms, want 1", name, starts, alarms)
		}
	}
	for _, name := range []string{"a", "b"} {
		n.verb(t, "accept", "--tpmstate", "dir="+n.path(name))
		n.quiet(t, name)
		n.quiet(t, name)
	}

	n.rename(t, "a", "c") // a move
	n.quiet(t, "c")
	n.rename(t, "b", "a") // to where a TPM was that has moved since
	n.quiet(t, "a")
	n.quiet(t, "b") // a new TPM where another one was

	n.verb(t, "export", "--tpmstate", "dir="+n.path("c"), n.path("archive"))
	n.verb(t, "import", "--replace", "--tpmstate", "dir="+n.path("b"), n.path("archive"))
	n.quiet(t, "b")
	n.verb(t, "clone", "dir://"+n.path("b"), "dir://"+n.path("copy"), "--keep-identity")
	n.quiet(t, "copy")

	n.quiet(t, "k", key...)
	n.rename(t, "copy", "gone")
	n.rename(t, "k", "copy")
	if starts, alarms := n.lives(t, "copy", "warn", key...); !starts || alarms != 1 {
		t.Errorf("an encrypted state in the place of another TPM: starts: %t, %d alarms, want 1", starts, alarms)
	}
	n.verb(t, append([]string{"accept", "--tpmstate", "dir=" + n.path("copy")}, key...)...)
	n.quiet(t, "copy", key...)
}

func mustGetwd(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
