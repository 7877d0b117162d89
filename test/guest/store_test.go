package guest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/store/lab"
)

// moves returns how often a machine moves; make full sets the number.
func moves(t *testing.T, otherwise int) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("SWTPM_TEST_MOVES"))
	if err != nil {
		return otherwise
	}
	return n
}

// startOn starts an emulator on a host of a cluster store.
func startOn(t *testing.T, h *lab.Host, migration string) *emulator {
	t.Helper()
	dir := harness.TempDir(t)
	e := &emulator{ctrl: filepath.Join(dir, "c"), log: filepath.Join(dir, "log"), command: h.Command}
	cmd := h.Command(bin, "socket", "--tpm2", "--tpmstate", "backend-uri=store://vm", "--key", "file="+h.Path("key"), "--terminate",
		"--migration", migration, "--ctrl", "type=unixio,path="+e.ctrl, "--log", "file="+e.log)
	cmd.Env = append(os.Environ(), "SWTPM_STORE_SOCKET="+h.Path("socket"))
	e.Process = harness.Start(t, cmd)
	harness.Await(t, "the control socket", func() bool { return e.Ended() || e.Listens(e.ctrl) })
	return e
}

// pair is two hosts that share a cluster store, and nothing else: each runs its own QEMU
// process with its own disk.
type pair struct {
	t     *testing.T
	m     model
	hosts [2]*lab.Host
	at    int // host with the machine
	v     *machine
	e     *emulator
	g     *guest
}

func newPair(t *testing.T, m model) *pair {
	need(t, "qemu-system-x86_64", "qemu-system-x86")
	lab.Need(t)
	c := lab.NewCluster(t, 3)
	p := &pair{t: t, m: m}
	for i := range p.hosts {
		p.hosts[i] = c.NewHost(t, filepath.Dir(bin), fmt.Sprintf("host%d", i), "")
	}
	return p
}

// boot starts the machine on host at.
func (p *pair) boot(at int) {
	p.t.Helper()
	p.at = at
	p.e = startOn(p.t, p.hosts[at], "release-lock-outgoing")
	p.v = startMachine(p.t, p.m, p.e, newDisk(p.t))
	p.v.booted(p.t)
}

// receive starts the processes on the other host that wait for the machine.
func (p *pair) receive() (w *machine, e *emulator, uri string) {
	p.t.Helper()
	other := p.hosts[1-p.at]
	uri = "tcp:" + other.IP + ":" + strconv.Itoa(4000+rand.IntN(1000))
	e = startOn(p.t, other, "release-lock-outgoing,incoming")
	w = startMachine(p.t, p.m, e, newDisk(p.t), "-incoming", uri)
	harness.Await(p.t, "the incoming machine", func() bool { return w.monitor.status(p.t) == "inmigrate" })
	return w, e, uri
}

// alone checks that no second copy of the TPM starts. The machine has used its TPM before: until
// its first command the destination does not own the state, and a TPM that starts elsewhere gets it.
func (p *pair) alone() {
	p.t.Helper()
	i := p.hosts[1-p.at].Launch("vm")
	if i.Answers() {
		p.t.Error("a second copy of the TPM runs")
	}
	_ = i.Cmd.Process.Kill()
	<-i.Done
}

// step sets the clocks of the brokers and emulators to other times of day.
func (p *pair) step(all ...*emulator) {
	p.t.Helper()
	hours := func() time.Duration { return time.Duration(rand.IntN(49)-24) * time.Hour }
	for _, h := range p.hosts {
		if err := lab.Step(h.Broker, "swtpm-store", hours()); err != nil {
			p.t.Error(err)
		}
	}
	for _, e := range all {
		if err := lab.Step(e.Process, "swtpm", hours()); err != nil {
			p.t.Error(err)
		}
	}
}

// TestStoreMigration checks that a machine moves between two hosts without a shared path,
// and that its TPM runs on one of them only, whatever time of day the hosts have.
func TestStoreMigration(t *testing.T) {
	p := newPair(t, models[1])
	p.boot(0)
	p.g = moveIn(t, p.v, p.m)
	count := moves(t, 4)
	for range count {
		w, e, uri := p.receive()
		p.step(p.e, e)
		if status := p.v.monitor.migrate(t, uri); status != "completed" {
			t.Fatalf("the migration has %s", status)
		}
		p.step(p.e, e)
		harness.Await(t, "the machine", func() bool { return w.monitor.status(t) == "running" })
		p.v.quit(t, p.e)
		p.v, p.e, p.at = w, e, 1-p.at
		p.g.isIn(t, p.v)
		p.alone()
		p.g.increase(t, p.v)
		p.g.extend(t, p.v)
		p.g.isIn(t, p.v)
	}
	t.Logf("%d of %d migrations", count, count)
}

// now returns the machine's status, also if QEMU ends meanwhile.
func (m *monitor) now() (string, error) {
	_ = m.conn.SetDeadline(time.Now().Add(harness.EventTimeout))
	if _, err := m.conn.Write([]byte(`{"execute":"query-status"}`)); err != nil {
		return "", err
	}
	for {
		var r reply
		if err := m.in.Decode(&r); err != nil {
			return "", err
		}
		if r.Event == "" {
			var info struct {
				Status string `json:"status"`
			}
			return info.Status, errors.Join(json.Unmarshal(r.Return, &info))
		}
	}
}

// arrives waits until the machine runs, or QEMU has ended without it.
func (v *machine) arrives(t *testing.T) bool {
	t.Helper()
	running := false
	harness.Await(t, "the machine or the end of QEMU", func() bool {
		status, err := v.monitor.now()
		running = err == nil && status == "running"
		return running || err != nil || v.Ended()
	})
	return running
}

// TestStoreMigrationKilled kills QEMU and the TPM of the source during a migration.
// Afterwards the destination has the machine with its TPM, or neither side runs and the
// state can be used by a start on either.
func TestStoreMigrationKilled(t *testing.T) {
	p := newPair(t, models[1])
	p.boot(0)
	p.g = moveIn(t, p.v, p.m)
	whole := p.move() // how long it takes
	count, arrived := moves(t, 3), 0
	for n := range count {
		w, e, uri := p.receive()
		p.slow()
		p.v.monitor.do(t, "migrate", map[string]any{"uri": uri})
		// Half of the moments are near the end, when the TPM moves.
		after := rand.Int64N(int64(whole))
		if n%2 == 1 {
			after = int64(whole)*9/10 + rand.Int64N(int64(whole)/5)
		}
		time.Sleep(time.Duration(after))
		for _, victim := range []*harness.Process{p.v.Process, p.e.Process} {
			_ = victim.Cmd.Process.Kill()
			<-victim.Done
		}
		if w.arrives(t) {
			arrived++
			p.v, p.e, p.at = w, e, 1-p.at
			p.g.isIn(t, p.v)
			p.alone()
		} else {
			_ = w.Cmd.Process.Kill()
			<-w.Done
			<-e.Done // with its client
			p.restart(n % 2)
		}
		p.g.increase(t, p.v)
		p.g.isIn(t, p.v)
	}
	t.Logf("%d kills in or after migrations of %v: %d machines arrived, %d started again", count, whole.Round(time.Millisecond), arrived, count-arrived)
}

// slow makes migrations slow enough for a moment in the middle.
func (p *pair) slow() {
	p.t.Helper()
	p.v.monitor.do(p.t, "migrate-set-parameters", map[string]any{"max-bandwidth": 30 << 20})
}

// move migrates the machine slowly, and returns how long that took.
func (p *pair) move() time.Duration {
	p.t.Helper()
	w, e, uri := p.receive()
	p.slow()
	begin := time.Now()
	if status := p.v.monitor.migrate(p.t, uri); status != "completed" {
		p.t.Fatalf("the migration has %s", status)
	}
	took := time.Since(begin)
	harness.Await(p.t, "the machine", func() bool { return w.monitor.status(p.t) == "running" })
	p.v.quit(p.t, p.e)
	p.v, p.e, p.at = w, e, 1-p.at
	return took
}

// restart boots the machine on host at after a power cut, when the lease has expired.
func (p *pair) restart(at int) {
	p.t.Helper()
	i, err := p.hosts[at].Acquire("vm", harness.EventTimeout) // how long it may take is a matter of test/store
	if err != nil {
		p.t.Fatal(err)
	}
	_ = i.Cmd.Process.Signal(os.Interrupt)
	<-i.Done
	p.boot(at)
	p.g.pcr = "0000000000000000000000000000000000000000000000000000000000000000"
	p.g.isIn(p.t, p.v)
}
