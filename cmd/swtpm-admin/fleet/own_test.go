package fleet

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// TestOwn checks that a user sees its own TPMs alone, whatever the processes of others are
// called, and no profile or state of the system.
func TestOwn(t *testing.T) {
	f := newFake(t)
	for i, uid := range []int{1000, 0, 107, 1001} {
		socket := fmt.Sprintf("/run/user/%d/vm.sock", uid)
		f.run(t, 100+i, "swtpm", socket, 0, classic(socket)...)
		f.write(t, fmt.Sprintf("proc/%d/status", 100+i), fmt.Sprintf("Uid:\t%d\t0\t0\t0\n", uid))
	}
	f.UID, f.Own = 1000, true
	if got := f.list(t); got.PID != 100 || got.UID != 1000 || got.State != stateRunning {
		t.Errorf("%+v", got)
	}
	if h := OwnHost(); h.Own != (os.Geteuid() != 0) || h.Own && (h.States != "" || slices.Contains(h.Profiles, "/etc/swtpm")) {
		t.Errorf("%+v", h)
	}
}

// TestOwnHidden checks that without the right to see the program and the libraries of an
// ordinary user's TPM no restart is claimed to be unnecessary: both may be private files. A TPM
// of a system user runs the installed files.
func TestOwnHidden(t *testing.T) {
	old := time.Now().Add(-time.Hour)
	s := (&Host{}).snapshot()
	library, program := "/usr/lib/x/libtpms.so.0", "/usr/bin/swtpm"
	for _, c := range []struct {
		uid     int
		changed time.Time // of the files
		want    string
	}{
		{1000, old, RestartUnknown}, {1000, time.Now(), RestartNeeded}, {107, old, RestartNotNeeded}, {107, time.Now(), RestartNeeded},
	} {
		p := &process{uid: c.uid, args: []string{program}, started: old.Add(time.Minute)}
		s.installed[program] = &file{path: program, changed: c.changed}
		x := TPM{State: stateRunning, Libtpms: p.byTime(&file{path: library, changed: c.changed}), Program: s.guessProgram(p)}
		x.judge()
		if x.Restart != c.want || (c.want == RestartNotNeeded) != (len(x.Reasons) == 0) {
			t.Errorf("user %d, changed %v: %q, %q, want %q", c.uid, c.changed, x.Restart, x.Reasons, c.want)
		}
	}
	no := false
	x := TPM{State: stateRunning, Libtpms: &loadedFile{Loaded: library, Replaced: &no}}
	if x.judge(); x.Restart != RestartUnknown || !strings.Contains(x.note(), "no right to see which swtpm") {
		t.Errorf("an unknown program: %q, %q", x.Restart, x.note())
	}
}

// TestLongNote checks that a long verdict is short in the table.
func TestLongNote(t *testing.T) {
	x := TPM{Name: "vm1", Manager: "manual", State: stateStopped, Verdict: "would not start: " + strings.Repeat("é", 300)}
	row := x.row(time.Now())
	if note := row[len(row)-1]; utf8.RuneCountInString(note) != maxNote || !strings.HasSuffix(note, "é…") {
		t.Errorf("%d characters: %q", utf8.RuneCountInString(note), note)
	}
}

// TestVerdicts checks that the verdict on a TPM that would start has the warning of its start.
func TestVerdicts(t *testing.T) {
	got := verdictsOf([]byte(`[
		{"profile":"old","starts":true,"findings":[{"check":"space","severity":"warning","what":"little"},{"check":"start","severity":"warning","what":"old state: x"}]},
		{"profile":"good","starts":true,"findings":[{"check":"start","severity":"note","what":"n"}]},
		{"profile":"bad","starts":false,"findings":[{"check":"start","severity":"warning","what":"w"},{"check":"key","severity":"error","what":"e"}]}]`))
	want := map[string]string{"old": "would start; old state: x", "good": "would start", "bad": "would not start: e"}
	if !maps.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
