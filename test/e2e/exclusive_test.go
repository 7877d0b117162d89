package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestSecondInstanceIsRefused checks that two processes, ours or the reference's, never have the
// same state, whichever path they use, also if the lock file is removed.
func TestSecondInstanceIsRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name          string
		first, second func(t testing.TB) string // programs
		disturb       func(t *testing.T, state string) string
	}{
		{"ours, ours", mine, mine, nil},
		{"ours, the reference's", mine, harness.Reference, nil},
		{"the reference's, ours", harness.Reference, mine, nil},
		{"ours, ours, lock file removed", mine, mine, removeLock},
		{"ours, ours, through a link", mine, mine, func(t *testing.T, state string) string {
			link := filepath.Join(harness.TempDir(t), "link")
			if err := os.Symlink(state, link); err != nil {
				t.Fatal(err)
			}
			return link
		}},
	}
	for _, test := range tests {
		for _, v := range both {
			t.Run(test.name+" "+string(v), func(t *testing.T) {
				t.Parallel()
				state := harness.TempDir(t)
				first := start(t, setup{program: test.first(t), tpm: v, state: state})
				ch := first.power(t, v)
				ch.define(t)
				before := harness.Read(t, filepath.Join(state, v.file()))
				where := state
				if test.disturb != nil {
					where = test.disturb(t, state)
				}
				second := start(t, setup{program: test.second(t), tpm: v, state: where})
				c := second.control(t)
				if err := c.Init(0); err == nil {
					t.Error("the second has the state, too")
				}
				_ = c.Close() // swtpm 0.7 has one control client at a time
				if log := harness.Read(t, second.log); !strings.Contains(log, "Could not lock access to lockfile: Resource temporarily unavailable") {
					t.Errorf("the log of the second does not say why: %q", log)
				}
				if harness.Read(t, filepath.Join(state, v.file())) != before {
					t.Error("the second has changed the state")
				}
				if n := ch.number(t); n != 1 {
					t.Errorf("the first has %d, want 1", n)
				}
				_ = ch.Close()
				first.terminate(t)
				if test.disturb == nil {
					if n := second.power(t, v).number(t); n != 1 {
						t.Errorf("the second has %d after the first ended, want 1", n)
					}
				}
			})
		}
	}
}

func mine(testing.TB) string { return ours("swtpm") }

// reference is the installed swtpm.

func removeLock(t *testing.T, state string) string {
	if err := os.Remove(filepath.Join(state, ".lock")); err != nil {
		t.Fatal(err)
	}
	return state
}

// TestLockFalse checks that lock=false, for storage without locks, excludes no second instance.
func TestLockFalse(t *testing.T) {
	t.Parallel()
	state := harness.TempDir(t)
	lockless := []string{"--tpmstate", "dir=" + state + ",lock=false"}
	first := start(t, setup{tpm: v20, args: lockless})
	first.power(t, v20)
	second := start(t, setup{tpm: v20, args: lockless})
	second.power(t, v20)
}
