package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// overwrites are the ways in which a source that ignores the lock replaces the state of the
// destination by its old state.
var overwrites = map[string]func(t *testing.T, path string, old []byte){
	"rename": func(t *testing.T, path string, old []byte) {
		write(t, path+".source", old)
		must(t, os.Rename(path+".source", path))
	},
	"in place": func(t *testing.T, path string, old []byte) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		must(t, err)
		_, err = f.Write(old)
		must(t, err)
		must(t, f.Close())
	},
	"removed": func(t *testing.T, path string, _ []byte) { must(t, os.Remove(path)) },
	"garbage": func(t *testing.T, path string, _ []byte) { write(t, path, []byte("garbage")) },
}

const storedAgain = "permanent state overwritten by another process without the storage lock; stored again"

// watch is how long the destination compares the state with what it has stored, after the guest's
// arrival and after it has stored the state again: the last of guardTimes in package emul.
const watch = 10 * time.Second

// inTime calls f until it returns true. f returns false if the machine was too busy, so that the
// destination's watch may have ended before the state was overwritten.
func inTime(t *testing.T, f func() bool) {
	t.Helper()
	for n := 1; !f(); n++ {
		if n == 20 {
			t.Fatalf("the state was not once overwritten within %v", watch)
		}
		t.Logf("try %d: overwritten too late", n)
	}
}

// TestGuardAfterMigration checks that changes that the destination has acknowledged survive a
// source that stores its old state without the lock.
func TestGuardAfterMigration(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		for how, overwrite := range overwrites {
			for _, key := range [][]string{nil, encryptions["aes-256"]} {
				if !v.runs(key == nil && how == "rename") {
					continue
				}
				t.Run(fmt.Sprint(v, " ", how, " key ", len(key)), func(t *testing.T) {
					t.Parallel()
					inTime(t, func() bool { return guardAfterMigration(t, v, overwrite, key) })
				})
			}
		}
	}
}

// guardAfterMigration overwrites the state twice. It returns false if that was too late.
func guardAfterMigration(t *testing.T, v version, overwrite func(t *testing.T, path string, old []byte), key []string) bool {
	t.Helper()
	state := harness.TempDir(t)
	path := inDir.file(v, state)
	src := start(t, setup{tpm: v, state: state, args: append(slices.Clone(leaving), key...)})
	g := moveIn(t, src, v)
	dst := start(t, setup{tpm: v, state: state, args: append(slices.Clone(arriving), key...)})
	defer dst.Kill(t)
	bags := src.pack(t, true)
	old := []byte(harness.Read(t, path))
	src.Kill(t)
	begin := time.Now()
	arrives(t, dst, bags)
	if n := strings.Count(harness.Read(t, dst.log), storedAgain); n != 0 {
		t.Errorf("the log reports %d overwritten states, want none before the first", n)
	}
	for n := 1; n <= 2; n++ {
		g.goesOn(t, dst, v)
		now := time.Now()
		overwrite(t, path, old)
		if time.Since(begin) >= watch {
			return false
		}
		if err := harness.Until(func() bool { return strings.Count(harness.Read(t, dst.log), storedAgain) == n }); err != nil {
			t.Fatalf("not stored again: %v; log:\n%s", err, harness.Read(t, dst.log))
		}
		begin = now // the watch began again after that
	}
	dst.Kill(t)
	g.isAt(t, state, v, key...)
	return true
}

// TestGuardAtEnd checks that a state which was overwritten is stored again before the
// storage lock is given up: at the end, and at the next INIT.
func TestGuardAtEnd(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"terminate", "INIT"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			inTime(t, func() bool { return guardAtEnd(t, end) })
		})
	}
}

// guardAtEnd overwrites the state before the end. It returns false if that was too late.
func guardAtEnd(t *testing.T, end string) bool {
	t.Helper()
	state := harness.TempDir(t)
	path := inDir.file(v20, state)
	src := start(t, setup{tpm: v20, state: state, args: leaving})
	g := moveIn(t, src, v20)
	dst := start(t, setup{tpm: v20, state: state, args: arriving})
	defer dst.Kill(t)
	bags := src.pack(t, true)
	old := []byte(harness.Read(t, path))
	src.Kill(t)
	begin := time.Now()
	arrives(t, dst, bags)
	g.goesOn(t, dst, v20)
	overwrites["rename"](t, path, old)
	if time.Since(begin) >= watch {
		return false
	}
	if end == "INIT" {
		if n := dst.power(t, v20).number(t); n != g.number {
			t.Errorf("the number is %d, want %d", n, g.number)
		}
	}
	dst.terminate(t)
	g.isAt(t, state, v20)
	return true
}

// TestGuardLeavesOwnerAlone checks that the state of another process that has the lock is not
// replaced: this host has released the lock before.
func TestGuardLeavesOwnerAlone(t *testing.T) {
	t.Parallel()
	state := harness.TempDir(t)
	src := start(t, setup{tpm: v20, state: state, args: leaving})
	g := moveIn(t, src, v20)
	dst := start(t, setup{tpm: v20, state: state, args: arriving})
	bags := src.pack(t, true)
	src.Kill(t)
	arrives(t, dst, bags)
	g.goesOn(t, dst, v20)

	third := start(t, setup{tpm: v20, state: state, args: arriving})
	bags = dst.pack(t, true) // releases the lock
	arrives(t, third, bags)
	g.goesOn(t, third, v20)
	g.goesOn(t, third, v20)
	dst.terminate(t)
	if log := harness.Read(t, dst.log) + harness.Read(t, third.log); strings.Contains(log, storedAgain) {
		t.Errorf("two owners in turn:\n%s", log)
	}
	third.terminate(t)
	g.isAt(t, state, v20)
	if left, err := filepath.Glob(filepath.Join(state, "*TMP*")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestGuardReference checks that acknowledged changes survive the end of the reference's newer
// release as the source, which stores its state without the lock.
func TestGuardReference(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("SWTPM_NEWER_LIBTPMS")
	if dir == "" {
		t.Skip("$SWTPM_NEWER_LIBTPMS is not set: run make newer")
	}
	loaders, _ := filepath.Glob(filepath.Join(dir, "root/usr/lib/*/ld-linux-*.so.*"))
	if len(loaders) != 1 {
		t.Fatalf("no dynamic loader below %s/root", dir)
	}
	libs := filepath.Dir(loaders[0])
	for _, v := range both {
		for _, end := range []string{"SIGTERM", "SHUTDOWN", "command"} {
			t.Run(fmt.Sprint(v, " ", end), func(t *testing.T) {
				t.Parallel()
				src := setup{tpm: v, args: append([]string{"--seccomp", "action=none"}, leaving...),
					wrap: []string{loaders[0], "--library-path", libs + ":" + filepath.Join(libs, "swtpm")}, program: filepath.Join(dir, "root/usr/bin/swtpm")}
				inTime(t, func() bool { return guardReference(t, v, src, end) })
			})
		}
	}
}

// guardReference ends the reference after the migration. It returns false if that overwrote the state
// too late.
func guardReference(t *testing.T, v version, source setup, end string) bool {
	t.Helper()
	state := harness.TempDir(t)
	source.state = state
	src := start(t, source)
	g := moveIn(t, src, v)
	dst := start(t, setup{tpm: v, state: state, args: arriving})
	defer dst.Kill(t)
	bags := src.pack(t, true)
	begin := time.Now()
	arrives(t, dst, bags)
	g.goesOn(t, dst, v)
	acknowledged := harness.Read(t, inDir.file(v, state))
	switch end {
	case "SIGTERM":
		must(t, src.Cmd.Process.Signal(unix.SIGTERM))
		src.Wait(t)
	case "SHUTDOWN":
		c := src.control(t)
		_ = c.Shutdown()
		_ = c.Close()
		src.Wait(t)
	case "command":
		ch := src.open(t, v)
		_, _ = ch.transmit(map[version]string{v12: ticks12, v20: random20}[v])
		_ = ch.Close()
		src.Kill(t)
	}
	late := time.Since(begin) >= watch
	overwritten := harness.Read(t, inDir.file(v, state)) != acknowledged
	if overwritten {
		if late {
			return false
		}
		if err := harness.Until(func() bool { return strings.Contains(harness.Read(t, dst.log), storedAgain) }); err != nil {
			t.Fatalf("not stored again: %v; log:\n%s", err, harness.Read(t, dst.log))
		}
	}
	t.Logf("overwritten by the source: %t; log: %s", overwritten, harness.Read(t, dst.log))
	dst.Kill(t)
	g.isAt(t, state, v)
	return true
}
