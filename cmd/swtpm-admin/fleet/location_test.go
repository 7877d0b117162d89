package fleet

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// TestLocation checks that a TPM that nothing names shows where its state is, that a pattern of the list
// matches that location, and that no restart is chosen by it.
func TestLocation(t *testing.T) {
	f := newFake(t)
	f.run(t, 100, "swtpm", "/srv/x", 0, "socket", "--tpm2", "--ctrl", "type=unixio,path=/srv/x", "--tpmstate", "dir=/srv/vms/vmA/tpm")
	got := f.list(t)
	if table := Table([]TPM{got}, time.Now()); got.Name != "pid 100" || !strings.Contains(table, " /srv/vms/vmA/tpm ") {
		t.Errorf("%+v\n%s", got, table)
	}
	for pattern, want := range map[string]int{
		"vmA": 1, "vm[AB]": 1, "vmA/tpm": 1, "/srv/vms/vmA/tpm": 1, "/srv/vms/*/tpm": 1, "pid 100": 1, "vmB": 0, "vm": 0, "": 0,
	} {
		if n := len(SelectLocations([]TPM{got}, []string{pattern})); n != want {
			t.Errorf("%q chooses %d TPMs, want %d", pattern, n, want)
		}
	}
	if chosen := Select([]TPM{got}, []string{"vmA"}); len(chosen) > 0 {
		t.Errorf("a location chooses a TPM to restart: %+v", chosen)
	}
	got.Name = "web"
	if n := len(SelectLocations([]TPM{got}, []string{"vmA"})); n > 0 || strings.Contains(Table([]TPM{got}, time.Now()), "vmA") {
		t.Errorf("the location of a TPM with a name counts: %+v", got)
	}
}

// TestShortLocation checks that the table shows the end of a long path, in whole parts if they fit.
func TestShortLocation(t *testing.T) {
	f := newFake(t)
	long := strings.Repeat("l", 60)
	for i, c := range []struct{ path, want string }{
		{"/a/b", "/a/b"},
		{"/srv/" + long + "/vm1/tpm", "…/vm1/tpm"},
		{"/var/tmp/test-of-the-administrator/0123456789/vms/vm1", "…/0123456789/vms/vm1"},
		{"/srv/x" + long, "…" + long[:39]},
	} {
		f.run(t, 100, "swtpm", "/srv/x", 0, "socket", "--tpm2", "--ctrl", "type=unixio,path=/srv/x", "--tpmstate", "dir="+c.path)
		got := f.list(t)
		if p := got.shortLocation(); p != c.want || utf8.RuneCountInString(p) > maxLocation {
			t.Errorf("%d: %q is shown as %q, want %q", i, c.path, p, c.want)
		}
	}
}

// TestHalted checks that a process that a signal has stopped is shown as such, and that it can take
// no name from other TPMs.
func TestHalted(t *testing.T) {
	for state, want := range map[string]string{"S": stateRunning, "R": stateRunning, "D": stateRunning, "T": stateStopped} {
		f := newFake(t)
		f.run(t, 100, "swtpm", "/srv/x", 0, classic("/srv/x")...)
		f.write(t, "proc/100/stat", fmt.Sprintf("100 (a) T b) %s 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 7 0 1234 1 1", state))
		got := f.list(t)
		note := strings.Contains(Table([]TPM{got}, time.Now()), "stopped by a signal; kill -CONT 100 continues it")
		if got.State != want || note != (want == stateStopped) || got.Restart != RestartNotNeeded || got.Started == nil {
			t.Errorf("state %s: %+v, want %s", state, got, want)
		}
	}
	all := []TPM{{Name: "web", Manager: "manual", PID: 1, UID: 1000, State: stateStopped}, {Name: "web", Manager: "libvirt", PID: 2, UID: 100, State: stateRunning}}
	if distinguish(all); all[1].Name != "web" {
		t.Errorf("a stopped process has taken a name: %+v", all)
	}
}
