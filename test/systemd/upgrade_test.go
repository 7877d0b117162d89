package systemd_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// tpmsVar is the number of TPMs of TestUpgrade.
const tpmsVar = "SWTPM_SYSTEMD_TPMS"

// jobsVar is --jobs of TestUpgrade.
const jobsVar = "SWTPM_SYSTEMD_JOBS"

// listed is the part of swtpm list --json that the tests read.
type listed struct {
	TPMs []struct {
		Name, State, Restart, Verdict string
		PID                           int
		Commands, Generation          uint64
		Location                      string
		Owner                         *struct {
			Exists, Here bool
			Host, Since  string
			Epoch        uint64
		}
	}
	Notes []string
}

// list returns the TPMs of the container whose names match a pattern.
func list(t *testing.T, pattern string) listed {
	t.Helper()
	return listWith(t, pattern, func(listed) bool { return true })
}

// listWith is list as soon as it has what is wanted, and no note: what does not answer within seconds,
// as on a busy machine, is missing in a list.
func listWith(t *testing.T, pattern string, wanted func(listed) bool) (l listed) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		l = listed{}
		out := must(t, "swtpm", "list", "--json", pattern)
		if err := json.Unmarshal([]byte(out), &l); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if len(l.Notes) == 0 && wanted(l) {
			return l
		}
		if time.Now().After(end) {
			t.Fatalf("the list is %s", out)
		}
	}
}

// need returns how many of the TPMs need a restart.
func (l listed) need() (n int) {
	for _, x := range l.TPMs {
		if x.Restart == "needed" {
			n++
		}
	}
	return n
}

// replaceLibtpms puts a copy of libtpms in its place, as a package does.
func replaceLibtpms(t *testing.T) {
	t.Helper()
	must(t, "sh", "-ec", `for lib in /usr/lib/*/libtpms.so.0.*; do cp "$lib" "$lib.new"; echo >>"$lib.new"; mv "$lib.new" "$lib"; done`)
}

// traffic sends a command for a guest after each interval until stop is called, which returns the number of
// commands and the longest wait.
func (g *guest) traffic(t *testing.T, every time.Duration) (stop func() (int, time.Duration)) {
	var wait sync.WaitGroup
	ended := make(chan struct{})
	sent, longest := 0, time.Duration(0)
	wait.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(every):
			}
			begin := time.Now()
			if err := try(g.conn, getRandom); err != nil {
				t.Errorf("%s: command %d: %v", g.name, sent, err)
				return
			}
			longest = max(longest, time.Since(begin))
			sent++
		}
	})
	return func() (int, time.Duration) {
		close(ended)
		wait.Wait()
		return sent, longest
	}
}

// TestUpgrade checks that all TPMs run a new libtpms after swtpm upgrade, and that no guest
// notices: none of its commands fails, and its session, key and PCRs stay. One that does
// not come back ends the upgrade.
func TestUpgrade(t *testing.T) {
	instance(t, profile("clear")) // skips outside
	n, err := strconv.Atoi(os.Getenv(tpmsVar))
	if err != nil {
		n = 20
	}
	var guests []*guest
	for i := range n {
		name := fmt.Sprintf("upgrade%03d", i)
		put(t, "/etc/swtpm/"+name+".toml", 0o644, profile("clear"))
		t.Cleanup(func() { _, _ = in("systemctl", "stop", service(name)) })
		guests = append(guests, newGuest(t, name))
	}
	if l := list(t, "upgrade*"); len(l.TPMs) != n || l.need() != 0 {
		t.Fatalf("%d TPMs, %d need a restart, want %d and none: %+v", len(l.TPMs), l.need(), n, l)
	}
	listsQuickly(t, n)
	replaceLibtpms(t)
	before := list(t, "upgrade*")
	if before.need() != n {
		t.Fatalf("%d need a restart, want %d: %+v", before.need(), n, before)
	}
	var stops []func() (int, time.Duration)
	for _, g := range guests {
		stops = append(stops, g.traffic(t, time.Duration(n)*time.Millisecond)) // 1,000 commands a second in all
	}
	jobs := []string{"--jobs", cmp.Or(os.Getenv(jobsVar), "1")}
	begin, used := time.Now(), processorTime(t)
	out, err := inFor(5*patience, slices.Concat([]string{"swtpm", "upgrade"}, jobs, []string{"upgrade*"})...)
	took := time.Since(begin)
	if t.Logf("%d TPMs in %v: %s", n, took.Round(time.Millisecond), out); err != nil {
		t.Error(err)
	}
	t.Log(processorTime(t).perRestart(used, n))
	reportPhases(t, "swtpm@upgrade*")
	commands, waits := 0, []time.Duration(nil)
	for _, stop := range stops {
		sent, wait := stop()
		commands, waits = commands+sent, append(waits, wait)
	}
	t.Logf("%d commands meanwhile; the longest wait of each guest: %s", commands, spread(waits))
	withinBounds(t, n, took, slices.Max(waits))
	if commands < n {
		t.Errorf("only %d commands", commands)
	}
	after := list(t, "upgrade*")
	if after.need() != 0 || !strings.Contains(out, fmt.Sprintf("%d restarted, ", n)) {
		t.Errorf("%d need a restart afterwards: %s", after.need(), out)
	}
	for i := range after.TPMs {
		if after.TPMs[i].PID == before.TPMs[i].PID {
			t.Errorf("%s was not restarted", after.TPMs[i].Name)
		}
	}
	for _, g := range guests {
		g.continues(t)
	}
	upgradeStops(t, guests)
	stopTarget(t, guests)
}

// upgradeStops breaks one TPM and checks that an upgrade ends there.
func upgradeStops(t *testing.T, guests []*guest) {
	t.Helper()
	broken := guests[1]
	dropIn(t, broken.unit, "[Service]\nExecStart=\nExecStart=/bin/false\n")
	replaceLibtpms(t)
	out := fails(t, "swtpm", "upgrade", "upgrade*")
	if !strings.Contains(out, broken.name+": ") || !strings.Contains(out, fmt.Sprintf("Stopped: %d TPMs", len(guests)-2)) {
		t.Errorf("the upgrade printed %s", out)
	}
	l := list(t, "upgrade*")
	if l.need() != len(guests)-2 {
		t.Errorf("%d need a restart, want %d", l.need(), len(guests)-2)
	}
	for _, g := range guests {
		if g != broken {
			g.continues(t)
		}
	}
	must(t, "rm", "-r", "/etc/systemd/system/"+broken.unit+".d")
	must(t, "systemctl", "daemon-reload")
	must(t, "systemctl", "reset-failed", broken.unit)
	left := len(guests) - 2
	out, err := inFor(5*patience, "script", "--quiet", "--return", "--command", "swtpm upgrade --jobs 2 'upgrade*'", "/dev/null")
	if err != nil || !strings.Contains(out, fmt.Sprintf("%d restarted, ", left)) {
		t.Errorf("the upgrade did not continue: %v: %s", err, out)
	}
	if line := fmt.Sprintf("\r\x1b[K%d of %d TPMs restarted: upgrade", left, left); !strings.Contains(out, line) {
		t.Errorf("the terminal shows no %q: %q", line, out)
	}
}

// stopTarget checks that swtpm.target stops all TPMs, and none of them by force, and that a stop of the
// services waits for their end, as docs/store.md says.
func stopTarget(t *testing.T, guests []*guest) {
	t.Helper()
	must(t, "systemctl", "stop", "swtpm.target")
	must(t, "systemctl", "stop", "swtpm@upgrade*.service")
	for _, g := range guests {
		if state := property(t, g.unit, "ActiveState"); state != "inactive" {
			t.Errorf("%s is %s after the stop", g.unit, state)
		}
		wantStopped(t, g.unit)
	}
	if l := list(t, "upgrade*"); len(l.TPMs) != len(guests) || l.TPMs[0].State != "stopped" || l.TPMs[0].Verdict != "would start" {
		t.Errorf("%+v", l)
	}
}

// TestUpgradeCannot checks that a TPM that would lose its guest is named and left alone.
func TestUpgradeCannot(t *testing.T) {
	name := instance(t, profile("clear")+"[service]\nkeep-session = \"no\"\n")
	must(t, "systemctl", "start", service(name))
	pid := property(t, service(name), "MainPID")
	replaceLibtpms(t)
	out := fails(t, "swtpm", "upgrade", name)
	if !strings.Contains(out, name+`: cannot be restarted under its guest: its profile has keep-session = "no"`) || property(t, service(name), "MainPID") != pid {
		t.Errorf("the upgrade printed %s", out)
	}
	if out := must(t, "swtpm", "upgrade", "--trigger"); !strings.Contains(out, " a restart to use the new libraries") {
		t.Errorf("the trigger printed %s", out)
	}
}

// TestHostMetrics checks the endpoint for Prometheus.
func TestHostMetrics(t *testing.T) {
	name := instance(t, profile("clear"))
	must(t, "systemctl", "start", service(name), "swtpm-metrics.socket")
	t.Cleanup(func() { _, _ = in("systemctl", "stop", "swtpm-metrics.socket", "swtpm-metrics.service") })
	awaitMetrics(t, "200 OK", `swtpm_tpm_up{name="`+name+`"} 1`, `swtpm_tpm_restart_needed{name="`+name+`"} 0`, "swtpm_host_sources_failed 0", "# EOF")
	replaceLibtpms(t)
	awaitMetrics(t, `swtpm_tpm_restart_needed{name="`+name+`"} 1`)
}

// TestPretender checks that the claims of a process that is called swtpm, with escape sequences
// in its arguments, are not believed, and that the sequences are escaped.
func TestPretender(t *testing.T) {
	name := instance(t, profile("clear"))
	liar := name + "-liar.service"
	must(t, "sh", "-c", "mkdir -p /tmp/liar/bin && cp /bin/bash /tmp/liar/bin/swtpm && chown -R nobody /tmp/liar")
	put(t, "/tmp/liar/socket", 0o755, "while :; do sleep 1; done\n")
	must(t, "systemd-run", "--unit="+liar, "--uid=nobody", "--working-directory=/tmp/liar", "/tmp/liar/bin/swtpm", "socket",
		"--ctrl", "type=unixio,path=/run/libvirt/qemu/swtpm/1-\x1b[31mevil-swtpm.sock", "--tpm2")
	t.Cleanup(func() { _, _ = in("systemctl", "stop", liar) })
	awaitProgram(t, liar, "swtpm") // it is active before
	out := must(t, "swtpm", "list")
	if strings.Contains(out, "\x1b") || strings.Contains(out, "evil") {
		t.Errorf("the list contains what the process claims: %q", out)
	}
	if !strings.Contains(out, "unconfirmed") || !strings.Contains(out, "calls itself swtpm") {
		t.Errorf("the process is missing: %s", out)
	}
}
