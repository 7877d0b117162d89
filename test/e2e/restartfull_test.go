package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
)

// smallDisk returns a directory whose directory state is a small file system.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := harness.TempDir(t)
	state := filepath.Join(dir, "state")
	mkdir(t, state)
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("needs root with the right to mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
	return dir
}

// TestRestartFullDisk checks that a restart on a full disk costs the guest nothing: the TPM
// continues from before the TPM2_Shutdown that could not be stored, also after another full disk
// and a crash.
func TestRestartFullDisk(t *testing.T) {
	needRoot(t, "it mounts a small tmpfs")
	t.Parallel()
	everyResumable(t, func(t *testing.T, v version, key bool) {
		k := newResumableIn(t, v, key, smallDisk(t)).power(t)
		k.data.define(t)
		filler := filepath.Join(k.dir, "state", "filler")
		for i, next := range []func(){
			func() { k.restart(t) },
			func() { k.restart(t); k.restart(t) },
			func() { k.restart(t); k.crash(t, unix.SIGKILL) },
		} {
			check := k.fill(t)
			fill(t, filler)
			next()
			check()
			if n := k.data.number(t); n != uint64(i)+1 {
				t.Errorf("the number is %d, want %d", n, i+1)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			if err := k.data.bump(uint64(i) + 2); err != nil {
				t.Errorf("with room again: %v", err)
			}
		}
		if strings.Contains(k.Out.String(), "starting fresh") {
			t.Errorf("it said %s", k.Out.String())
		}
	})
}

// TestShutdownFullDisk checks that STOP and SHUTDOWN do not wait for a full disk: the client gets
// its reply, and the process ends.
func TestShutdownFullDisk(t *testing.T) {
	needRoot(t, "it mounts a small tmpfs")
	t.Parallel()
	for _, service := range []bool{false, true} {
		t.Run(fmt.Sprintf("service=%t", service), func(t *testing.T) {
			t.Parallel()
			k := newResumableIn(t, v20, false, smallDisk(t))
			if !service {
				k.end(t)
				k.Clear()
				k.env = nil
				k.start(t)
			}
			ctrl, err := ctrl.Dial(t.Context(), "unix", filepath.Join(k.dir, "c"))
			if err != nil {
				t.Fatal(err)
			}
			defer ctrl.Close()
			ctrl.Timeout = harness.EventTimeout
			k.ctrl = ctrl
			k.power(t).data.define(t)
			fill(t, filepath.Join(k.dir, "state", "filler"))
			begun := time.Now()
			if err := ctrl.Shutdown(); err != nil {
				t.Errorf("SHUTDOWN: %v", err)
			}
			if code := k.Wait(t); code != 0 {
				t.Errorf("exit code %d; it said %s", code, k.Out.String())
			}
			t.Logf("the end took %v", time.Since(begun))
		})
	}
}
