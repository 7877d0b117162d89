package e2e_test

import (
	"path/filepath"
	"regexp"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// running is the log line about a copy of a TPM that runs already.
var running = regexp.MustCompile(`identity [0-9a-f]{32} is in use by process [0-9]+: another copy of this TPM runs on this host[^\n]*; stop the other one, or make this one a TPM of its own: swtpm state clone --new-identity`)

// powerOn powers on the TPM of a new process, and checks whether this is refused.
func powerOn(t *testing.T, s setup, refused bool) *emulator {
	t.Helper()
	e := start(t, s)
	c := e.control(t)
	defer c.Close()
	err := c.Init(0)
	log := harness.Read(t, e.log)
	if (err != nil) != refused || len(running.FindAllString(log, -1)) != map[bool]int{true: 1}[refused] {
		t.Errorf("INIT: %v, want refused: %v; log:\n%s", err, refused, log)
	}
	return e
}

// copyState copies the permanent state of a TPM.
func copyState(t *testing.T, from string, v version) (dir string) {
	t.Helper()
	dir = harness.TempDir(t)
	write(t, filepath.Join(dir, v.file()), []byte(harness.Read(t, filepath.Join(from, v.file()))))
	return dir
}

// TestRunningCopy checks that a copy of a running TPM is refused, and starts after the other one
// has ended.
func TestRunningCopy(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			settings, _ := host(t, "warn")
			wrap := onHost(t, settings)
			source := setup{tpm: v, state: harness.TempDir(t), wrap: wrap}
			e := powerOn(t, source, false)
			e.terminate(t)
			clone := setup{tpm: v, state: harness.TempDir(t), wrap: wrap}
			mustRun(t, wrap[0], append(wrap[1:len(wrap):len(wrap)], ours("swtpm"), "state", "clone", "--keep-identity", "dir://"+source.state, "dir://"+clone.state)...)

			e = powerOn(t, source, false)
			refused := powerOn(t, clone, true)
			c := e.control(t)
			if err := c.Stop(); err != nil {
				t.Error(err)
			}
			again := refused.control(t)
			if err := again.Init(0); err == nil {
				t.Error("the copy starts while the source is off, but owns its state")
			}
			if err := c.Init(0); err != nil {
				t.Errorf("the source after STOP: %v", err)
			}
			c.Close()
			e.Kill(t)
			if err := again.Init(0); err != nil {
				t.Errorf("the copy after the source has ended: %v, %s", err, harness.Read(t, refused.log))
			}
			again.Close()
			powerOn(t, source, true).terminate(t)
			refused.terminate(t)
			powerOn(t, source, false).terminate(t)

			off, _ := host(t, "off")
			source.wrap, clone.wrap = onHost(t, off), onHost(t, off)
			e = powerOn(t, source, false)
			powerOn(t, clone, false).terminate(t)
			e.terminate(t)
		})
	}
}

// TestRunningCopyMigration checks that a guest can move between two processes of a host with
// marks: in one directory, and to another one while the source holds its lock.
func TestRunningCopyMigration(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		for _, shared := range []bool{false, true} {
			t.Run(string(v)+map[bool]string{true: " shared"}[shared], func(t *testing.T) {
				t.Parallel()
				settings, _ := host(t, "refuse")
				s := setup{program: ours("swtpm"), tpm: v, state: harness.TempDir(t), wrap: onHost(t, settings)}
				d := setup{program: ours("swtpm"), tpm: v, state: harness.TempDir(t), wrap: s.wrap}
				if shared {
					d.state = s.state
				}
				src := start(t, withMigration(s, shared, leaving))
				g := moveIn(t, src, v)
				bags := src.pack(t, false)
				dst := start(t, withMigration(d, shared, arriving))
				if err := dst.unpack(t, bags); err != nil {
					t.Fatalf("%v; log:\n%s", err, harness.Read(t, dst.log))
				}
				g.goesOn(t, dst, v)
				if shared { // it has the state, so it has the identity
					powerOn(t, setup{tpm: v, state: copyState(t, d.state, v), wrap: s.wrap}, true).Kill(t)
				}
				src.Kill(t)
				g.goesOn(t, dst, v)
				dst.terminate(t)
				powerOn(t, d, false).terminate(t)
			})
		}
	}
}

// TestRunningCopyFile checks the same for a state in a file, where the sandbox needs flock only
// for the mark.
func TestRunningCopyFile(t *testing.T) {
	t.Parallel()
	settings, _ := host(t, "warn")
	wrap, dir := onHost(t, settings), harness.TempDir(t)
	source := setup{tpm: v20, file: filepath.Join(dir, "source"), wrap: wrap}
	write(t, source.file, make([]byte, 1<<20))
	e := start(t, source)
	e.power(t, v20)
	e.terminate(t)
	clone := source
	clone.file = filepath.Join(dir, "clone")
	write(t, clone.file, []byte(harness.Read(t, source.file)))
	e = powerOn(t, source, false)
	powerOn(t, clone, true).terminate(t)
	e.terminate(t)
	powerOn(t, clone, false).terminate(t)
}
