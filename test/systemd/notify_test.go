package systemd_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"
)

// awaitStatus waits until the status of a unit matches.
func awaitStatus(t *testing.T, unit, want string) {
	t.Helper()
	var got string
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if got = property(t, unit, "StatusText"); regexp.MustCompile("^" + want + "$").MatchString(got) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the status of %s is %q, want %q", unit, got, want)
		}
	}
}

// TestStatus checks that the status has the channels, their clients and the number of commands.
func TestStatus(t *testing.T) {
	name := instance(t, strings.Replace(profile("clear"), "[flags]\nstartup = \"clear\"\n", "", 1))
	unit := service(name)
	must(t, "systemctl", "start", unit)
	run := "/run/swtpm/" + name
	awaitStatus(t, unit, "TPM 2.0 is off; data unix:"+run+"/data.sock, 0 clients; control unix:"+run+"/ctrl.sock, 0 clients; 0 commands; seccomp kill, Landlock [0-9]+")
	ioctl(t, name, "-i")
	c := dial(t, name)
	command(t, c, "8001 0000000c 00000144 0000") // TPM2_Startup(CLEAR)
	awaitStatus(t, unit, "TPM 2.0 is on; .*data.sock, 1 client; .*ctrl.sock, 0 clients; [0-9]+ commands?; stored 20..-.* UTC; seccomp kill, Landlock [0-9]+")
	_ = c.Close()
	awaitStatus(t, unit, "TPM 2.0 is on; .*data.sock, 0 clients; .*")
	ioctl(t, name, "--stop")
	awaitStatus(t, unit, "TPM 2.0 is off; .*")
}

// TestWatchdog checks that a process that hangs is killed and started again, and that one that
// works is not.
func TestWatchdog(t *testing.T) {
	name := instance(t, profile("clear"))
	unit := service(name)
	dropIn(t, unit, "[Service]\nWatchdogSec=10\nWatchdogSignal=SIGKILL\n")
	must(t, "systemctl", "start", unit)
	before := property(t, unit, "WatchdogTimestampMonotonic")
	for end := time.Now().Add(patience); property(t, unit, "WatchdogTimestampMonotonic") == before; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("systemd hears no ping")
		}
	}
	must(t, "systemctl", "kill", "--signal=STOP", unit)
	awaitAny(t, unit, "NRestarts", "1", "2", "3") // on a busy machine a ping may be late, too
	await(t, unit, "ActiveState", "active")
	command(t, dial(t, name), getRandom)
	if out := journal(t, unit, "cat"); !strings.Contains(out, "Watchdog timeout") {
		t.Errorf("it was not the watchdog:\n%s", out)
	}
}

// TestJournal checks that each event is one entry with its fields.
func TestJournal(t *testing.T) {
	name := instance(t, strings.Replace(profile("clear"), "[flags]\nstartup = \"clear\"\n", "", 1))
	unit := service(name)
	must(t, "systemctl", "start", unit)
	ioctl(t, name, "-i")
	ioctl(t, name, "--stop")
	ioctl(t, name, "-i")
	must(t, "systemctl", "stop", unit)
	must(t, "rm", "/var/lib/swtpm/"+name+"/tpm2-00.permall")
	must(t, "systemctl", "start", unit)
	put(t, "/var/lib/swtpm/"+name+"/tpm2-00.permall", 0o600, "no state")
	must(t, "chown", "swtpm:", "/var/lib/swtpm/"+name+"/tpm2-00.permall")
	fails(t, "swtpm_ioctl", "--unix", "/run/swtpm/"+name+"/ctrl.sock", "-i")

	awaitJournal(t, unit, "INIT failed")
	// Select by our own field: the last lines of a process may reach the journal after its end,
	// and then belong to no unit.
	var got []string
	for line := range strings.Lines(must(t, "journalctl", "--output=json", "SWTPM_INSTANCE="+name)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		event, _ := e["SWTPM_EVENT"].(string)
		if event == "" {
			continue
		}
		if id, _ := e["MESSAGE_ID"].(string); len(id) != 32 {
			t.Errorf("%s has the MESSAGE_ID %q", event, id)
		}
		if e["SWTPM_INSTANCE"] != name || e["SWTPM_TPM_VERSION"] != "2.0" {
			t.Errorf("%s is of %v, TPM %v", event, e["SWTPM_INSTANCE"], e["SWTPM_TPM_VERSION"])
		}
		cause, _, _ := strings.Cut(e["SWTPM_CAUSE"].(string), ":")
		got = append(got, event+" "+cause)
	}
	// The very last lines may be too late for the journal.
	got = without(got, "power-off the process ends")
	want := []string{
		"ready ", "power-on a new TPM", "power-off requested by a client", "power-on with its stored state",
		"stopping terminated signal received", "ready ", "init-failed",
	}
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || !strings.HasPrefix(got[i], want[i]) {
			t.Fatalf("events\n%q, want\n%q", got, want)
		}
	}
}

func without(list []string, s string) []string {
	var out []string
	for _, x := range list {
		if x != s {
			out = append(out, x)
		}
	}
	return out
}
