package e2e_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
)

// keyed are the options of a state that is stored plain, and of one that is not.
var keyed = map[string][]string{
	"plain": nil,
	"aes":   {"--key", "file=testdata/key128.hex"},
}

// TestDamageIsRefused checks that INIT refuses a damaged state file that we wrote, with one
// log line that gives the reason, that the file is unchanged and that the process goes on.
// In the end the undamaged state starts. TestEveryFlip of package seal tries each bit and each
// length; this test tries enough of them to reach the limit of the log.
func TestDamageIsRefused(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		for name, args := range keyed {
			t.Run(string(v)+" "+name, func(t *testing.T) {
				t.Parallel()
				good := makeState(t, v, args...)
				d := newDamage(t, inDir, v, args)
				for i := 0; i < len(good); i += 1 + len(good)/40 {
					bad := bytes.Clone(good)
					bad[i] ^= 1 << (i % 8)
					d.refused(t, fmt.Sprintf("byte %d flipped", i), bad)
				}
				for n := 0; n < len(good); n += 1 + len(good)/10 {
					d.refused(t, fmt.Sprintf("cut to %d bytes", n), good[:n])
				}
				d.refused(t, "one byte too many", append(bytes.Clone(good), 0))
				write(t, d.file, good)
				if err := d.ctrl.Init(0); err != nil {
					t.Fatalf("INIT with the undamaged state: %v", err)
				}
				if n := d.open(t, v).withStartup(t).number(t); n != 1 {
					t.Errorf("the number is %d, want 1", n)
				}
				d.finish(t)
			})
		}
	}
}

// TestDamageOfReferenceStateDoesNotCrash checks that a flipped bit in a state of the
// reference, which has no checksum and may be accepted, does not end the process.
func TestDamageOfReferenceStateDoesNotCrash(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			good, err := os.ReadFile(filepath.Join("testdata", "reference", v.file()))
			if err != nil {
				t.Fatal(err)
			}
			d := newDamage(t, inDir, v, nil)
			refused := 0
			for i := range good {
				bad := bytes.Clone(good)
				bad[i] ^= 1 << (i % 8)
				write(t, d.file, bad)
				if err := d.ctrl.Init(0); err != nil {
					refused++
				} else if err := d.ctrl.Stop(); err != nil {
					t.Fatalf("byte %d flipped: STOP: %v", i, err)
				}
				if d.Ended() {
					t.Fatalf("byte %d flipped: the process has ended:\n%s", i, d.Out.String())
				}
			}
			if refused == 0 {
				t.Error("no INIT has failed, want some of the flipped bits to be noticed")
			}
			write(t, d.file, good)
			if err := d.ctrl.Init(0); err != nil {
				t.Fatalf("INIT with the undamaged state: %v", err)
			}
		})
	}
}

// damage is an emulator that gets one state file after the other.
type damage struct {
	*emulator
	v    version
	ctrl *ctrl.Client
	file string   // the state file
	tail *os.File // the log, read up to its end

	refusals, reported int // by INIT; those that the log has a line on
}

func newDamage(t *testing.T, k keeping, v version, args []string) *damage {
	t.Helper()
	state := harness.TempDir(t)
	e := start(t, k.at(v, state, args...))
	tail, err := os.Open(e.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tail.Close() })
	return &damage{emulator: e, v: v, ctrl: e.control(t), file: k.file(v, state), tail: tail}
}

// refused checks that INIT refuses the state file b, and that the file does not change.
func (d *damage) refused(t *testing.T, what string, b []byte) {
	t.Helper()
	write(t, d.file, b)
	err := d.ctrl.Init(0)
	if d.Ended() {
		t.Fatalf("%s: the process has ended:\n%s", what, d.Out.String())
	}
	if err == nil {
		t.Fatalf("%s: INIT succeeds", what)
	}
	if now := harness.Read(t, d.file); now != string(b) {
		t.Fatalf("%s: the file was changed: %d bytes, were %d", what, len(now), len(b))
	}
	d.logged(t, what, d.newLines(t), filepath.Base(d.file), "permall")
}

// newLines returns what was logged since it was last called.
func (d *damage) newLines(t *testing.T) string {
	t.Helper()
	b, err := io.ReadAll(d.tail)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// freeLines is how many similar lines the log has before it limits their rate.
const freeLines = 20

// logged checks that the log has one line on a refusal, which has one of names in it, or
// none if there were many of them: see finish.
func (d *damage) logged(t *testing.T, what, log string, names ...string) {
	t.Helper()
	d.refusals++
	lines := failures(log)
	d.reported += len(lines)
	if len(lines) == 0 && d.refusals > freeLines {
		return
	}
	if len(lines) != 1 || !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(lines[0], name) }) {
		t.Fatalf("%s: the log has %q, want one line on the failure that names the state", what, log)
	}
}

// suppressedLines matches the line with the number of suppressed lines.
var suppressedLines = regexp.MustCompile(`(?m)(\d+) similar lines suppressed: INIT failed: `)

// finish ends the emulator and checks that its log has accounted for each refusal.
func (d *damage) finish(t *testing.T) {
	t.Helper()
	d.terminate(t)
	n := d.reported
	for _, m := range suppressedLines.FindAllStringSubmatch(harness.Read(t, d.emulator.log), -1) {
		suppressed, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		n += suppressed
	}
	if n != d.refusals {
		t.Errorf("the log accounts for %d of %d refusals:\n%s", n, d.refusals, harness.Read(t, d.emulator.log))
	}
}

// failures returns the lines of a log about a failed INIT. There may be
// others: a disk may be slow at any time, and the log says so.
func failures(log string) (lines []string) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "INIT failed: ") && !suppressedLines.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// withStartup sends TPM_Startup on a new connection.
func (c *channel) withStartup(t testing.TB) *channel {
	t.Helper()
	c.ok(t, c.startup())
	return c
}

// TestHostileStateFiles checks that INIT fails on a file that no emulator has written,
// touches no file, and succeeds with a good file afterwards. Package safefile has all traps.
func TestHostileStateFiles(t *testing.T) {
	t.Parallel()
	traps := map[string]func(path string) error{
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o600) },
		"symlink":   func(p string) error { return os.Symlink("elsewhere", p) },
		"hard link": func(p string) error { return os.Link(filepath.Join(filepath.Dir(p), "elsewhere"), p) },
		"sparse file of 4 GiB": func(p string) error {
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(p, 4<<30)
		},
	}
	for _, k := range keepings {
		good := k.makeState(t, v20)
		for name, set := range traps {
			t.Run(fmt.Sprint(k, " ", name), func(t *testing.T) {
				t.Parallel()
				d := newDamage(t, k, v20, nil)
				elsewhere := filepath.Join(filepath.Dir(d.file), "elsewhere")
				write(t, elsewhere, good)
				if err := set(d.file); err != nil {
					t.Fatal(err)
				}
				before, err := os.Lstat(d.file)
				if err != nil {
					t.Fatal(err)
				}
				if err := d.ctrl.Init(0); err == nil {
					t.Error("INIT succeeds")
				}
				if line := harness.Read(t, d.log); !strings.Contains(line, filepath.Base(d.file)) {
					t.Errorf("the log does not name the file: %q", line)
				}
				after, err := os.Lstat(d.file)
				if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() || before.Size() != after.Size() || before.ModTime() != after.ModTime() {
					t.Errorf("the file was touched: %v, %v", after, err)
				}
				if harness.Read(t, elsewhere) != string(good) {
					t.Error("another file was touched")
				}
				if err := os.RemoveAll(d.file); err != nil {
					t.Fatal(err)
				}
				write(t, d.file, good)
				if err := d.ctrl.Init(0); err != nil {
					t.Errorf("INIT with a good file: %v", err)
				}
			})
		}
	}
}
