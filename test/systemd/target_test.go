package systemd_test

import (
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// knock connects to the data socket of an instance all the time until stop is called, which returns how
// often a TPM answered after the moment that closed was called.
func knock(t *testing.T, name string) (closed func(), stop func() (answered int)) {
	t.Helper()
	path := filepath.Join(inside("/run/swtpm/"), name, "data.sock")
	var wait sync.WaitGroup
	var mu sync.Mutex
	var after bool
	late, ended := 0, make(chan struct{})
	wait.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(2 * time.Millisecond):
			}
			mu.Lock()
			isLate := after // before the connection: its answer may be read late
			mu.Unlock()
			c, err := net.Dial("unix", path)
			if err != nil {
				continue
			}
			if _, err = transmit(c, getRandom); err == nil && isLate {
				late++
			}
			_ = c.Close()
		}
	})
	return func() { mu.Lock(); after = true; mu.Unlock() }, func() int { close(ended); wait.Wait(); return late }
}

// TestTargetStops checks what systemctl stop swtpm.target does: the target ends first, then the TPMs, each before its
// sockets and its manufacture; no client starts one again; broker and metrics go on; and
// nothing is lost.
func TestTargetStops(t *testing.T) {
	name := storeInstance(t)
	plain, activated := name+"-plain", name+"-socket"
	put(t, "/etc/swtpm/"+plain+".toml", 0o644, profile("clear")+made)
	put(t, "/etc/swtpm/"+activated+".toml", 0o644, passed)
	t.Cleanup(func() {
		_, _ = in("systemctl", "stop", service(plain), socket(activated), dataSocket(activated), service(activated), "swtpm-metrics.socket", "swtpm-metrics.service")
	})
	must(t, "systemctl", "start", "swtpm-metrics.socket", socket(activated), dataSocket(activated))
	guests := []*guest{newGuest(t, name), newGuest(t, plain), newGuest(t, activated)}
	for _, g := range guests {
		g.stores(t)
	}
	pin(t, name, service(name), service(plain), service(activated), socket(activated), dataSocket(activated), maker(name), maker(plain), maker(activated))
	pid, start := property(t, broker, "MainPID"), property(t, service(activated), "InvocationID")
	closed, stop := knock(t, activated)
	must(t, "systemctl", "stop", "swtpm.target")
	for _, unit := range []string{service(activated), socket(activated), dataSocket(activated)} {
		wantStopped(t, unit) // until then the TPM answers
	}
	closed()
	for _, g := range guests {
		after := []string{maker(g.name)}
		if g.name == activated {
			after = append(after, socket(g.name), dataSocket(g.name))
		}
		g.stoppedBetween(t, "swtpm.target", after)
	}
	if late := stop(); late > 0 {
		t.Errorf("%d commands were answered after the stop", late)
	}
	for _, g := range guests {
		wantStopped(t, g.unit)
	}
	if got := property(t, service(activated), "InvocationID"); got != start {
		t.Errorf("a client has started %s again", service(activated))
	}
	if got := property(t, broker, "MainPID"); got != pid {
		t.Errorf("the broker has process %s after the stop, and had %s", got, pid)
	}
	want := []string{`swtpm_tpm_store_info{name="` + name + `",location="store://` + name + `",owner="`}
	for _, g := range guests {
		want = append(want, `swtpm_tpm_up{name="`+g.name+`"} 0`+"\n")
	}
	awaitMetrics(t, want...)
	must(t, "systemctl", "start", socket(activated), dataSocket(activated), guests[0].unit, guests[1].unit)
	for _, g := range guests {
		g.conn = dial(t, g.name)
		if n := g.counter(t); n != g.count {
			t.Errorf("%s: the counter is %d after the stop, want %d", g.name, n, g.count)
		}
	}
}

// stoppedBetween checks that the TPM of a guest was stopped after one unit and before others.
func (g *guest) stoppedBetween(t *testing.T, first string, after []string) {
	t.Helper()
	wantStopped(t, g.unit)
	firstEnd, begin, end := monotonic(t, first, "InactiveEnter"), monotonic(t, g.unit, "ActiveExit"), monotonic(t, g.unit, "InactiveEnter")
	if begin < firstEnd {
		t.Errorf("%s began to stop %d us before %s had ended", g.unit, firstEnd-begin, first)
	}
	for _, unit := range after {
		wantStopped(t, unit)
		if then := monotonic(t, unit, "InactiveEnter"); then < end {
			t.Errorf("%s ended %d us before %s", unit, end-then, g.unit)
		}
	}
}

// pin makes systemd remember units that are not active, with their times.
func pin(t *testing.T, name string, units ...string) {
	t.Helper()
	target := name + "-pin.target"
	put(t, "/etc/systemd/system/"+target, 0o644, "[Unit]\nAfter="+strings.Join(units, " ")+"\n")
	must(t, "systemctl", "daemon-reload")
	must(t, "systemctl", "start", target)
	t.Cleanup(func() { _, _ = in("systemctl", "stop", target) })
}

// wantStopped waits until a unit has stopped, and checks that it did so in order. systemctl stop of a target,
// or of a unit that conflicts with others, waits for that unit alone.
func wantStopped(t *testing.T, unit string) {
	t.Helper()
	awaitAny(t, unit, "ActiveState", "inactive", "failed")
	if state, result := property(t, unit, "ActiveState"), property(t, unit, "Result"); state != "inactive" || result != "success" {
		t.Errorf("%s is %s with the result %s", unit, state, result)
	}
}
