package guest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestFullDisk checks that a guest on a host whose disk with the TPM's state is full continues:
// its command waits until space is freed; one that waits too long is refused, and the kernel
// continues with the same TPM, without a reset.
func TestFullDisk(t *testing.T) {
	for _, m := range models {
		t.Run(m.String(), func(t *testing.T) {
			disk := newDisk(t)
			state := harness.TempDir(t)
			if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=192k"); err != nil {
				t.Skipf("needs root with the right to mount: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
			e := startEmulator(t, bin, m.tpm2, state+",wait-limit=5s")
			v := startMachine(t, m, e, disk)
			v.booted(t)
			g := moveIn(t, v, m)
			check := fill(t, v, m)

			filler := fillDisk(t, state)
			freed := make(chan error, 1)
			go func() { // the guest's command does not return before
				for end := time.Now().Add(harness.EventTimeout); !logged(e, "store waiting: "); time.Sleep(10 * time.Millisecond) {
					if time.Now().After(end) {
						freed <- fmt.Errorf("no command waits")
						return
					}
				}
				freed <- os.Remove(filler)
			}()
			g.increase(t, v)
			if err := <-freed; err != nil {
				t.Fatal(err)
			}
			g.isIn(t, v)
			check()

			filler = fillDisk(t, state)
			cmd, want := m.commands().increase, "00000923"
			if !m.tpm2 {
				cmd, want = fmt.Sprintf(cmd, g.number+1), "00000800"
			}
			if rsp := v.ask(t, "tpm "+strings.ReplaceAll(cmd, " ", "")); len(rsp) != 20 || rsp[12:] != want {
				t.Errorf("response on a disk that stays full: %s, want the result %s", rsp, want)
			}
			g.isIn(t, v)
			v.tpm(t, m.commands().random)
			g.extend(t, v)
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			check() // with a key whose failed authorizations could not be counted before
			g.increase(t, v)
			g.isIn(t, v)
			v.findsTPM(t, m)
			if log := harness.Read(t, e.log); !strings.Contains(log, "store resumed: ") {
				t.Errorf("log\n%s\nwant that the disk takes states again", log)
			}
			v.quit(t, e)
		})
	}
}

// logged reports whether e has logged text. It may be called while the test waits.
func logged(e *emulator, text string) bool {
	b, err := os.ReadFile(e.log)
	return err == nil && strings.Contains(string(b), text)
}

// fillDisk fills the file system at dir to its last byte.
func fillDisk(t *testing.T, dir string) (filler string) {
	t.Helper()
	filler = filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for size := 4096; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return filler
}
