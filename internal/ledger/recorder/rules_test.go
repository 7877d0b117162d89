package recorder

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// TestRefusedStart checks that no file exists before Ready, and that nothing is lost by that.
func TestRefusedStart(t *testing.T) {
	b := newBench(t, 16)
	b.ready = false
	b.start()
	b.Take(tapped(t, extended, fine))
	b.Wait(time.Minute)
	if names, err := os.ReadDir(b.dir); err != nil || len(names) > 0 {
		t.Fatalf("%v, %v", names, err)
	}
	b.Ready()
	b.end()
	if n := len(b.boot(t, 1).Records); n != 4 { // startup, values, extend, end
		t.Errorf("%d records", n)
	}
}

// TestNoAllocation checks that a measurement allocates nothing.
func TestNoAllocation(t *testing.T) {
	b := newBench(t, 16)
	b.ready = false
	b.start()
	raw := tapped(t, extended, fine)
	entry := bytes.Clone(raw)
	n := testing.AllocsPerRun(50, func() {
		copy(raw, entry)
		b.Take(raw)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestSlowDisk checks that records are only counted while the disk does not answer, and that the
// values are right in the end.
func TestSlowDisk(t *testing.T) {
	b := newBench(t, 16)
	b.ready = false
	b.start()
	const extends = 1000 // the ring has space for a part of them
	for range extends {
		b.Take(tapped(t, extended, fine))
	}
	b.Ready()
	b.Wait(time.Minute)
	b.Take(tapped(t, extended, fine))
	b.end()
	boot := b.boot(t, 1)
	missing, recorded := uint64(0), uint64(0)
	for _, r := range boot.Records {
		switch r.Kind {
		case ledger.KindOverflow:
			o, err := r.Overflow()
			if err != nil {
				t.Fatal(err)
			}
			missing += o.Records
		case ledger.KindExtend:
			recorded++
		}
	}
	if missing == 0 || missing+recorded != extends+1 {
		t.Errorf("%d records are missing, %d are there, want %d", missing, recorded, extends+1)
	}
	s, _, err := boot.Replay(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(b.state.Banks()); err != nil {
		t.Error(err)
	}
}

// TestMakeRoom checks that a power-on waits for a late writer if the ring is full, but not for a disk
// that never answers.
func TestMakeRoom(t *testing.T) {
	for name, after := range map[string]int{"late": 3, "never": pauses + 1} {
		b := newBench(t, 16)
		var job func()
		b.opt.Background = func(f func()) { job = f }
		n := 0
		b.pause = func() {
			if n++; n == after {
				job()
			}
		}
		b.start()
		b.PowerOn([16]byte{1}) // there is still space: it does not wait
		if n != 0 {
			t.Fatalf("%s: %d pauses before the ring is full, want 0", name, n)
		}
		b.start()
		for range 1000 {
			b.Take(tapped(t, extended, fine))
		}
		b.start()
		if lost := after > pauses; b.lost != lost || n != min(after, pauses) {
			t.Errorf("%s: lost = %v after %d pauses, want %v after %d", name, b.lost, n, lost, min(after, pauses))
		}
	}
}

// TestPlaces checks that what is in the place of a file costs one line of each boot, and nothing
// else.
func TestPlaces(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"link":      func(path string) error { return os.Symlink("elsewhere", path) },
		"fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 16)
			b.start()
			b.Wait(time.Minute)
			path := filepath.Join(b.dir, "tpm2-00.boot-0001")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				b.Take(tapped(t, extended, fine))
				b.Wait(time.Minute)
			}
			b.end()
			if len(b.logged) != 1 || !strings.Contains(b.logged[0], "boot ledger not written until the next power-on") {
				t.Errorf("%q", b.logged)
			}
			b.start()
			b.end()
			if n := len(b.boot(t, 2).Records); n != 3 {
				t.Errorf("the next boot has %d records", n)
			}
		})
	}
}

// TestFullDisk checks that a file that cannot grow costs one line and keeps what it has.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a file system")
	}
	b := newBench(t, 16)
	if err := unix.Mount("none", b.dir, "tmpfs", 0, "size=8k,mode=700"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(b.dir, unix.MNT_DETACH) })
	b.start()
	b.Wait(time.Minute)
	for range 200 {
		b.Take(tapped(t, extended, fine))
		b.Wait(time.Minute)
	}
	b.end()
	if len(b.logged) != 1 || !strings.Contains(b.logged[0], "no space left on device") {
		t.Errorf("%q", b.logged)
	}
	content, err := os.ReadFile(filepath.Join(b.dir, "tpm2-00.boot-0001"))
	if err != nil {
		t.Fatal(err)
	}
	if boot, err := ledger.Parse(content); err != nil || len(boot.Records) < 10 {
		t.Errorf("%+v, %v", boot, err)
	}
}
