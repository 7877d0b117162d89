package e2e_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
)

// snapshotCount returns how many snapshots a test takes: $SWTPM_TEST_SNAPSHOTS, or few.
func snapshotCount(t *testing.T) int {
	t.Helper()
	s := os.Getenv("SWTPM_TEST_SNAPSHOTS")
	if s == "" {
		return 100
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("SWTPM_TEST_SNAPSHOTS=%q", s)
	}
	return n
}

// The kinds of commands of a load.
const (
	loadCounter = iota // increment an NV counter
	loadPCR            // extend PCR 10
	loadAuth           // change the authorization of the endorsement hierarchy
	loadKinds
)

// loadResult is how often each kind of command has taken effect.
type loadResult [loadKinds]int

// load is a random sequence of commands that change a TPM 2.0, one after the other.
type load struct {
	ch *channel

	mu     sync.Mutex
	kinds  []byte // of all commands that were sent
	acked  int    // those that were answered
	counts loadResult
	stop   bool
	err    error
	done   chan struct{}
}

// authOf returns the authorization after n changes, in hexadecimal digits.
func authOf(n int) string { return fmt.Sprintf("aa%012xaa", n) }

// changeAuth returns the command that changes the authorization of the endorsement
// hierarchy.
func changeAuth(from, to string) string {
	password := fmt.Sprintf("40000009 0000 00 %04x %s", len(from)/2, from)
	size := 10 + 4 + 4 + 9 + len(from)/2 + 2 + len(to)/2
	return fmt.Sprintf("8002 %08x 00000129 4000000b %08x %s %04x %s", size, 9+len(from)/2, password, len(to)/2, to)
}

// startLoad begins the load on a TPM that is on.
func startLoad(t *testing.T, ch *channel) *load {
	t.Helper()
	ch.define(t)
	ch.ok(t, changeAuth("", authOf(0)))
	l := &load{ch: ch, done: make(chan struct{})}
	r := rand.New(rand.NewPCG(5, 6))
	go func() {
		defer close(l.done)
		for l.step(byte(r.IntN(loadKinds))) {
			time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
		}
	}()
	return l
}

// step sends one command. It returns false if the load is to end.
func (l *load) step(kind byte) bool {
	l.mu.Lock()
	if l.stop {
		l.mu.Unlock()
		return false
	}
	n := l.counts[loadAuth]
	cmd := []string{incr20, extend[v20], changeAuth(authOf(n), authOf(n+1))}[kind]
	l.kinds = append(l.kinds, kind)
	l.mu.Unlock()
	_, err := l.ch.try(cmd)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.err = fmt.Errorf("command %d of kind %d: %w", len(l.kinds), kind, err)
		return false
	}
	l.acked++
	l.counts[kind]++
	return true
}

// position returns how many commands were answered, and how many sent.
func (l *load) position() (acked, sent int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked, len(l.kinds)
}

// end stops the load.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	l.stop = true
	l.mu.Unlock()
	<-l.done
	if l.err != nil {
		t.Fatal(l.err)
	}
}

// isPrefix reports whether got is the result of the first n commands, for an n from first
// to last. Without volatile, extended PCRs do not count.
func (l *load) isPrefix(got loadResult, first, last int, volatile bool) bool {
	var now loadResult
	for n := 0; n <= last; n++ {
		if !volatile {
			now[loadPCR] = 0
		}
		if n >= first && now == got {
			return true
		}
		if n < len(l.kinds) {
			now[l.kinds[n]]++
		}
	}
	return false
}

// pcrChain returns the number of extends of PCR 10 by its value.
func pcrChain(n int) map[string]int {
	all, v := map[string]int{}, make([]byte, sha256.Size)
	digest := slices.Repeat([]byte{0x22}, sha256.Size)
	for i := range n + 1 {
		all[fmt.Sprintf("%x", v[sha256.Size-20:])] = i
		sum := sha256.Sum256(append(v, digest...))
		v = sum[:]
	}
	return all
}

// observe returns the commands that have taken effect in a restored TPM. The authorization must
// be one of those after the commands from first to last.
func (l *load) observe(t *testing.T, ch *channel, first, last int) (got loadResult) {
	t.Helper()
	got[loadCounter] = int(ch.number(t) - l.base(t))
	n, ok := pcrChain(len(l.kinds))[pcrValue(ch.ok(t, readPCR[v20]))]
	if !ok {
		t.Fatal("PCR 10 has a value that it never had")
	}
	got[loadPCR] = n
	var low, high int
	for i, k := range l.kinds[:last] {
		if k == loadAuth {
			high++
			if i < first {
				low++
			}
		}
	}
	for n := low; n <= high; n++ {
		if _, err := ch.try(changeAuth(authOf(n), authOf(n))); err == nil {
			got[loadAuth] = n
			return got
		}
	}
	t.Fatalf("no authorization of %d to %d is accepted", low, high)
	return got
}

// base returns the value of the counter before the load.
func (l *load) base(t *testing.T) uint64 {
	t.Helper()
	l.mu.Lock()
	n := l.counts[loadCounter]
	l.mu.Unlock()
	return l.ch.number(t) - uint64(n)
}

// taken is a snapshot, and the numbers of commands that were sent and answered around it.
type taken struct {
	file        string
	first, last int // acknowledged before the call, sent after it
}

// snapshotReport is what swtpm state snapshot --json prints.
type snapshotReport struct {
	TPM, Identity string
	Generation    uint64
	Items         []string
	Encrypted     bool
}

// takeSnapshots takes n snapshots under load, next to a client that stays connected to the
// control socket as QEMU does.
func takeSnapshots(t *testing.T, e *emulator, l *load, n int) (all []taken) {
	t.Helper()
	qemu := e.control(t)
	if _, err := qemu.Capability(); err != nil {
		t.Fatal(err)
	}
	dir := harness.TempDir(t)
	last := snapshotReport{}
	for i := range n {
		s := taken{file: filepath.Join(dir, fmt.Sprint(i))}
		s.first, _ = l.position()
		var r snapshotReport
		if err := json.Unmarshal([]byte(mustState(t, "snapshot", "--json", "--ctrl", e.ctrl, s.file)), &r); err != nil {
			t.Fatal(err)
		}
		_, s.last = l.position()
		if r.TPM != "2.0" || len(r.Items) != 2 || r.Generation <= last.Generation || last.Identity != "" && r.Identity != last.Identity {
			t.Fatalf("%+v after %+v", r, last)
		}
		last = r
		all = append(all, s)
	}
	if _, err := qemu.Capability(); err != nil {
		t.Errorf("the client that was connected all the time: %v", err)
	}
	return all
}

// TestLiveSnapshot checks that each snapshot of a busy TPM is its state at one moment, with all
// changes that were acknowledged before the call, and that ours and swtpm start with it.
func TestLiveSnapshot(t *testing.T) {
	t.Parallel()
	t.Run("store", func(t *testing.T) {
		t.Parallel()
		k := newClusterHost(t).keeping()
		liveSnapshot(t, k.at(v20, k.place(t)), max(snapshotCount(t)/10, 4))
	})
	t.Run("dir", func(t *testing.T) {
		t.Parallel()
		liveSnapshot(t, setup{tpm: v20}, snapshotCount(t))
	})
}

// liveSnapshot takes count snapshots of a TPM that s describes.
func liveSnapshot(t *testing.T, s setup, count int) {
	t.Helper()
	key := []string{"--key", "file=testdata/key256.hex,mode=aes-256-cbc"}
	s.args = key
	e := start(t, s)
	ch := e.power(t, v20)
	l := startLoad(t, ch)
	all := takeSnapshots(t, e, l, count)
	l.end(t)
	logPauses(t, e)
	for i, s := range all {
		volatile := i%2 == 0
		state := harness.TempDir(t)
		args := append([]string{"import", "--tpmstate", "dir=" + state}, key...)
		if !volatile {
			args = append(args, "--no-volatile")
		}
		mustState(t, append(args, s.file)...)
		program := ours("swtpm")
		if i%4 >= 2 {
			program = harness.Reference(t)
		}
		r := start(t, setup{program: program, tpm: v20, state: state, args: key})
		c := r.control(t)
		if err := c.Init(0); err != nil {
			t.Fatalf("snapshot %d: INIT: %v\n%s", i, err, harness.Read(t, r.log))
		}
		_ = c.Close()
		restored := r.open(t, v20)
		if !volatile {
			restored.ok(t, startup20)
		}
		got := l.observe(t, restored, s.first, s.last)
		if !l.isPrefix(got, s.first, s.last, volatile) {
			t.Errorf("snapshot %d, volatile %t: %v is not the result of the first %d to %d commands", i, volatile, got, s.first, s.last)
		}
		_ = restored.Close()
		r.terminate(t)
		if log := harness.Read(t, r.log); program == ours("swtpm") && strings.Contains(log, "old state") {
			t.Errorf("snapshot %d was imported, and counts as a rollback: %s", i, log)
		}
	}
}

// logPauses logs how long the requests of snapshots take: longer than a command of the guest
// waits for one.
func logPauses(t *testing.T, e *emulator) {
	t.Helper()
	c := e.control(t)
	var all []time.Duration
	for range 300 {
		begun := time.Now()
		if _, _, err := c.Snapshot(false); err != nil {
			t.Fatal(err)
		}
		all = append(all, time.Since(begun))
	}
	slices.Sort(all)
	t.Logf("GET_STATEBLOB of a snapshot: median %v, p99 %v, most %v", all[150], all[297], all[299])
	_ = c.Close()
}

// TestSnapshotForms checks the protection of a snapshot with each combination of keys, and the
// errors.
func TestSnapshotForms(t *testing.T) {
	t.Parallel()
	for name, args := range encryptions {
		for _, v := range both {
			if !v.runs(name == "aes-256") {
				continue
			}
			t.Run(fmt.Sprintf("%s %s", name, v), func(t *testing.T) {
				t.Parallel()
				e := start(t, setup{tpm: v, args: args})
				ch := e.power(t, v)
				ch.define(t)
				dir := harness.TempDir(t)
				for _, pass := range [][]string{nil, {"--passphrase-file", "testdata/passphrase"}} {
					file := filepath.Join(dir, fmt.Sprint("f", len(pass)))
					out := mustState(t, append(append([]string{"snapshot", "--ctrl", e.ctrl}, pass...), file)...)
					if clear := strings.Contains(out, "in the clear"); clear != (args == nil && pass == nil) {
						t.Errorf("%s", out)
					}
					state := filepath.Join(dir, fmt.Sprint("s", len(pass)))
					mkdir(t, state)
					mustState(t, append(append(append([]string{"import", "--tpmstate", "dir=" + state, "--no-volatile"}, args...), pass...), file)...)
					r := start(t, setup{tpm: v, state: state, args: args})
					if n := r.power(t, v).number(t); n != 1 {
						t.Errorf("the number is %d", n)
					}
					r.terminate(t)
				}
			})
		}
	}
}

// TestSnapshotRefused checks that the error names an emulator that cannot return all blobs of one
// moment, or is off, and that no file is left.
func TestSnapshotRefused(t *testing.T) {
	t.Parallel()
	for _, program := range []string{ours("swtpm"), harness.Reference(t)} {
		e := start(t, setup{program: program, tpm: v20})
		want := "the TPM is off"
		if program != ours("swtpm") {
			_ = e.power(t, v20).Close()
			want = "cannot make a snapshot"
		}
		file := filepath.Join(e.dir, "snapshot")
		code, _, stderr := run(t, "state", "snapshot", "--ctrl", "unix:"+e.ctrl, file)
		if code != 1 || !strings.Contains(stderr, want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit code %d, %s", program, code, stderr)
		}
		if _, err := os.Lstat(file); err == nil {
			t.Errorf("%s: %s is left", program, file)
		}
	}
}
