package dir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// childEnv makes this test binary a program that stores, one after the other,
// the blobs that are its value, separated by blanks; see childMain.
const childEnv = "DIR_TEST_STORE"

func TestMain(m *testing.M) {
	if blobs := os.Getenv(childEnv); blobs != "" {
		os.Exit(childMain(strings.Fields(blobs)))
	}
	os.Exit(m.Run())
}

// childMain stores blobs as permall in the directory "state" and acknowledges
// each with a line in the file "acks". All on one thread: strace counts by it.
func childMain(blobs []string) int {
	runtime.LockOSThread()
	acks, err := os.OpenFile("acks", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		panic(err)
	}
	o := nv.Options{Prefix: "tpm2-00."}
	if mode := os.Getenv(childEnv + "_MODE"); mode != "" {
		o.Backup = strings.Contains(mode, "backup")
		o.Relaxed = strings.Contains(mode, "relaxed")
	}
	d, err := Open("state", o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv(childEnv+"_MODE") == "batch" {
		return childBatch(d, acks)
	}
	if os.Getenv(childEnv+"_MODE") == "loads" {
		return childLoads(d, blobs[0])
	}
	if strings.Contains(os.Getenv(childEnv+"_MODE"), "defer") {
		return childDefers(d, blobs[0])
	}
	for _, blob := range blobs {
		if err := d.Store(permall, []byte(blob)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if _, err := acks.WriteString("ack-" + blob); err != nil {
			panic(err)
		}
	}
	d.Close()
	return 0
}

// childLoads loads permall three times, has another process's store in its place, and
// loads it twice.
func childLoads(d *Dir, blob string) int {
	for i := range 5 {
		if i == 3 {
			if err := os.WriteFile("state/"+permall, []byte(blob), 0o600); err != nil {
				panic(err)
			}
		}
		if _, err := d.Load(permall); err != nil {
			panic(err)
		}
	}
	return 0
}

// childDefers loads permall after Defer, stores blob unless that is "none", and settles twice, also if the
// store could not sync the directory.
func childDefers(d *Dir, blob string) int {
	d.Defer()
	_, err := d.Load(permall)
	if err == nil && blob != "none" {
		err = d.Store(permall, []byte(blob))
	}
	unsynced := errors.Is(err, nv.ErrUnsynced)
	if unsynced {
		err = nil
	}
	for range 2 {
		if err == nil {
			err = d.SyncDeferred()
		}
	}
	if err != nil || !unsynced && !d.Unchanged(permall) {
		fmt.Fprintln(os.Stderr, "unchanged:", d.Unchanged(permall), err)
		return 1
	}
	return 0
}

// call is one system call of the child on the state directory, as strace has
// written it down.
type call struct {
	name string
	args string
	nth  int // among the calls of its name, from 1
	errs bool
}

// needs skips a test that needs a missing program, or fails it if all of them are required.
func needs(t *testing.T, program string) {
	t.Helper()
	if os.Getenv("SWTPM_TEST_REQUIRE") != "" {
		t.Fatalf("needs %s, and $SWTPM_TEST_REQUIRE is set", program)
	}
	t.Skipf("needs %s", program)
}

// child runs childMain under strace in a new directory, where permall is old
// unless that is "", with inject for the expression of strace's -e inject, if
// any. It returns the directory and the system calls in their order.
func child(t *testing.T, old, blobs, mode, inject string) (top string, calls []call, stderr string) {
	t.Helper()
	files := map[string]string{}
	if old != "" {
		files[permall] = old
	}
	return childOn(t, files, blobs, mode, inject)
}

// childOn is child in a directory with these files.
func childOn(t *testing.T, files map[string]string, blobs, mode, inject string) (top string, calls []call, stderr string) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		needs(t, "strace")
	}
	top = t.TempDir()
	if top, err = filepath.EvalSymlinks(top); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(top, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		write(t, filepath.Join(state, name), content)
	}
	args := []string{"-ff", "-y", "-s", "1000", "-o", filepath.Join(top, "trace"), "-P", state, "-P", filepath.Join(top, "acks")}
	for _, name := range []string{temp, permall, volstate, savestate, permall + ".bak"} {
		for _, name := range []string{name, stagedName(name)} {
			args = append(args, "-P", filepath.Join(state, name))
		}
	}
	args = append(args, "-P", filepath.Join(state, journalFile), "-P", filepath.Join(state, journalFile+".tmp"))
	if inject != "" {
		args = append(args, "-e", "inject="+inject)
	}
	cmd := exec.Command(strace, append(args, os.Args[0])...)
	cmd.Dir = top
	// The race detector would sleep for a second at exit.
	cmd.Env = append(os.Environ(), childEnv+"="+blobs, childEnv+"_MODE="+mode, "GORACE=atexit_sleep_ms=0")
	var out bytes.Buffer
	cmd.Stderr = &out
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	calls = parseTrace(t, filepath.Join(top, "trace.*"))
	if len(calls) == 0 {
		if strings.Contains(out.String(), "ptrace") {
			t.Skipf("strace may not trace here: %s", out.String())
		}
		t.Fatalf("strace has seen nothing: %s", out.String())
	}
	return top, calls, out.String()
}

var traceLine = regexp.MustCompile(`^(\w+)\((.*)\)\s+= (\S+)`)

// parseTrace reads the files of strace -ff; only one has lines.
func parseTrace(t *testing.T, pattern string) []call {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	var calls []call
	count := map[string]int{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			m := traceLine.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			count[m[1]]++
			calls = append(calls, call{name: m[1], args: m[2], nth: count[m[1]], errs: strings.HasPrefix(m[3], "-")})
		}
	}
	return calls
}

// on reports whether c names name, or has a descriptor of it.
func (c call) on(name string) bool { return strings.Contains(c.args, name) }

// file is the name of the file that the first argument, a descriptor, is open
// on; "" if it is none.
func (c call) file() string {
	m := openOn.FindStringSubmatch(c.args)
	if m == nil {
		return ""
	}
	return filepath.Base(m[1])
}

var openOn = regexp.MustCompile(`^\d+<([^>]*)>`)

var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// strings returns the string arguments of c.
func (c call) strings(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, q := range quoted.FindAllString(c.args, -1) {
		s, err := strconv.Unquote(q)
		if err != nil {
			t.Fatalf("%s(%s): %v", c.name, c.args, err)
		}
		all = append(all, s)
	}
	return all
}

// TestOrder checks the system calls of a store: their order, and that there are no
// others on the files and the directory. Each of them costs every durable command of
// every guest, and all bytes are written once.
func TestOrder(t *testing.T) {
	full := "openat temp, write temp, fsync temp, fstat temp, close temp, renameat temp, fsync state, ack"
	for _, c := range []struct{ old, mode, want string }{
		{"old", "", full},
		{"", "", full},
		{"old", "relaxed", "openat temp, write temp, fstat temp, close temp, renameat temp, ack"},
		{"old", "backup", "openat temp, write temp, fsync temp, fstat temp, close temp, renameat2 temp, renameat temp, fsync state, ack"},
	} {
		_, calls, stderr := child(t, c.old, "first second", c.mode, "")
		var stores [][]string // the calls up to each acknowledgement
		var now []string
		written := ""
		for _, c := range calls {
			switch {
			case c.on("acks>") && c.name == "write":
				stores = append(stores, append(now, "ack"))
				now = nil
			case c.on("acks"):
			case c.on(temp):
				now = append(now, c.name+" temp")
				if c.name == "write" {
					written += c.strings(t)[0]
				}
			case c.on("/state"):
				now = append(now, c.name+" state")
			}
		}
		if len(stores) != 2 || written != "firstsecond" {
			t.Errorf("mode %q: %d stores, %q was written\n%s", c.mode, len(stores), written, stderr)
			continue
		}
		if s := strings.Join(stores[1], ", "); s != c.want {
			t.Errorf("mode %q: calls %s\nwant %s\n%s", c.mode, s, c.want, stderr)
		}
	}
}

// TestLoadSyncsOnce checks that a state is synced when it is loaded first, and again
// when another process has changed it, but not each time that a client asks for it.
func TestLoadSyncsOnce(t *testing.T) {
	_, calls, stderr := child(t, "old", "newer", "loads", "")
	var syncs []int // how many reads came before each
	reads := 0
	for _, c := range calls {
		switch {
		case c.name == "openat" && c.on(permall) && c.on("O_RDONLY"):
			reads++
		case c.name == "fsync":
			syncs = append(syncs, reads)
		}
	}
	if want := []int{1, 1, 4, 4}; !slices.Equal(syncs, want) || reads != 5 {
		t.Errorf("syncs after these of %d loads: %v, want %v of 5\n%s", reads, syncs, want, stderr)
	}
}

// TestDefer checks that a loaded state is synced by SyncDeferred, unless a store has replaced it, and
// that it is synced at once if it becomes the backup.
func TestDefer(t *testing.T) {
	const settled = "openat state, fsync state, fsync directory"
	const stored = "openat state, openat temp, fsync temp, renameat temp, fsync directory"
	for _, c := range []struct{ blob, mode, inject, want string }{
		{"none", "defer", "", "openat state, " + settled},
		{"new", "defer", "", stored},
		{"new", "defer", "fsync:error=EIO:when=2", stored + ", " + settled}, // of the directory, after the store
		{"new", "defer backup", "", "openat state, fsync state, fsync directory, openat temp, fsync temp, renameat2 temp, renameat temp, fsync directory"},
	} {
		_, calls, stderr := child(t, "old", c.blob, c.mode, c.inject)
		var got []string
		for _, c := range calls {
			on := "directory"
			if c.on(temp) {
				on = "temp"
			} else if c.on(permall) {
				on = "state"
			}
			switch c.name {
			case "openat", "fsync", "renameat", "renameat2":
				if c.name != "openat" || on != "directory" {
					got = append(got, c.name+" "+on)
				}
			}
		}
		if g := strings.Join(got, ", "); g != c.want || stderr != "" {
			t.Errorf("%s, mode %q: calls %s\nwant %s\n%s", c.blob, c.mode, g, c.want, stderr)
		}
	}
}

// TestFaults makes each system call of a store fail, and kills the process at each. An error
// must never be acknowledged, the old or the new state must exist, and the next store must
// succeed.
func TestFaults(t *testing.T) {
	for _, mode := range []string{"", "backup"} {
		_, calls, stderr := child(t, "old", "new", mode, "")
		tried := 0
		for _, c := range calls {
			if c.on("acks") {
				continue
			}
			for _, fault := range []string{"error=EIO", "error=ENOSPC", "signal=KILL"} {
				tried++
				what := fmt.Sprintf("mode %q, %s:%s:when=%d", mode, c.name, fault, c.nth)
				top, _, out := child(t, "old", "new", mode, what[strings.Index(what, ", ")+2:])
				checkFault(t, what, c, fault, mode, top, out)
			}
		}
		if tried < 3*8 {
			t.Fatalf("mode %q: %d faults only; %s", mode, tried, stderr)
		}
	}
}

// harmless reports whether a store may succeed although c fails: c closes the directory or
// reserves a descriptor.
func (c call) harmless() bool {
	return c.name == "fcntl" || c.name == "newfstatat" || c.name == "close" && c.on("/state>")
}

func checkFault(t *testing.T, what string, c call, fault, mode, top, stderr string) {
	t.Helper()
	state := filepath.Join(top, "state")
	ack, _ := os.ReadFile(filepath.Join(top, "acks"))
	got, err := os.ReadFile(filepath.Join(state, permall))
	if err != nil {
		t.Errorf("%s: no state: %v; files %q", what, err, names(t, state))
		return
	}
	dies := strings.HasPrefix(fault, "signal")
	switch {
	case string(ack) == "ack-new" && string(got) != "new":
		t.Errorf("%s: acknowledged, but the state is %q", what, got)
	case string(ack) != "" && !dies && !c.harmless():
		t.Errorf("%s: acknowledged", what)
	case string(ack) == "" && !dies && c.harmless() && c.name != "close":
		t.Errorf("%s: refused: %s", what, stderr)
	case string(ack) == "" && !dies && stderr == "":
		t.Errorf("%s: fails without a word", what)
	case string(got) != "old" && string(got) != "new":
		t.Errorf("%s: the state is %q", what, got)
	}
	// Only the last sync may fail with the new state in place.
	last := c.name == "fsync" && c.on("/state>")
	if string(ack) == "" && !dies && !last && string(got) != "old" {
		t.Errorf("%s: refused, but the state is %q", what, got)
	}
	if _, err := os.Stat(filepath.Join(state, temp)); err == nil && !dies {
		t.Errorf("%s: the temporary file is left", what)
	}
	d := open(t, state, nv.Options{Prefix: "tpm2-00.", Backup: mode == "backup"})
	defer d.Close()
	if b, err := d.Load(permall); string(b) != string(got) || err != nil {
		t.Errorf("%s: the next start loads %q, %v", what, b, err)
	}
	mustStore(t, d, permall, "next")
	wantFile(t, filepath.Join(state, permall), "next")
}
