package systemd_test

import (
	"strings"
	"testing"
	"time"
)

// awaitJournal waits until the journal of a unit has a line. The line may be later than what it reports.
func awaitJournal(t *testing.T, unit, want string) string {
	t.Helper()
	return awaitEntry(t, unit, "cat", want)
}

// awaitEvent waits until the journal of a unit has an event.
func awaitEvent(t *testing.T, unit, event string) {
	t.Helper()
	awaitEntry(t, unit, "verbose", "SWTPM_EVENT="+event+"\n")
}

// awaitEntry waits until the journal of a unit, in a form of journalctl, contains a text.
func awaitEntry(t *testing.T, unit, form, want string) string {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out := journal(t, unit, form)
		if strings.Contains(out, want) {
			return out
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in\n%s", want, out)
		}
	}
}

// TestReload checks that systemctl reload reads the log's settings of the profile again and opens
// a log file that logrotate has renamed, and that the TPM and its client do not notice.
func TestReload(t *testing.T) {
	name := instance(t, profile("clear"))
	unit, log := service(name), "/var/lib/swtpm/"+name+"/log"
	must(t, "systemctl", "start", unit)
	c, pid := dial(t, name), property(t, unit, "MainPID")
	command(t, c, getRandom)
	put(t, "/etc/swtpm/"+name+".toml", 0o644, profile("clear")+"[log]\nlevel = 2\nfile = \""+log+"\"\n")
	for range 2 {
		must(t, "systemctl", "reload", unit)
		for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
			command(t, c, getRandom)
			if out, _ := in("cat", log); strings.Contains(out, "SWTPM_IO_Read") {
				break
			}
			if time.Now().After(end) {
				t.Fatal("no traffic in the log")
			}
		}
		must(t, "mv", log, log+".1")
	}
	await(t, unit, "ActiveState", "active")

	put(t, "/etc/swtpm/"+name+".toml", 0o644, profile("clear")+"[log]\nlevl = 2\n")
	must(t, "systemctl", "reload", unit)
	// The log is where it was: in the file that was moved.
	want := "reload: /etc/swtpm/" + name + ".toml:10:1: [log] levl: unknown key; did you mean \"level\"?; nothing has changed\n"
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if out, _ := in("cat", log+".1"); strings.Contains(out, want) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("no %q in %s", want, log+".1")
		}
	}
	put(t, "/etc/swtpm/"+name+".toml", 0o644, profile("clear"))
	must(t, "systemctl", "reload", unit)
	awaitJournal(t, unit, "reloaded: the log's settings")
	command(t, c, getRandom)
	if now := property(t, unit, "MainPID"); now != pid {
		t.Errorf("the process is %s, was %s", now, pid)
	}
}
