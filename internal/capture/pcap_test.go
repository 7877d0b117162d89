package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// A clock and numbers that are the same each time.
func fixedTime() time.Time { return time.UnixMicro(0x0005_5657_5859_5a5b) }

func fixedRandom(numbers ...uint32) func() uint32 {
	return func() uint32 {
		n := numbers[0]
		numbers = numbers[1:]
		return n
	}
}

// notes collects the lines for the log.
type notes struct {
	sync.Mutex
	lines []string
}

func (n *notes) note(format string, args ...any) {
	n.Lock()
	defer n.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

func (n *notes) String() string {
	n.Lock()
	defer n.Unlock()
	return strings.Join(n.lines, "\n")
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// start is a section with the handshake of port 50007 and the sequence numbers
// 0x11111111 and 0xffffffff: 312 bytes, as after the start of swtpm 0.11.
const start = `
	0a0d0d0a 1c000000 4d3c2b1a 0100 0000 0000000000000000 1c000000
	01000000 14000000 0100 0000 00000000 14000000
` + block0 + `
	000000000000 000000000000 0800
	45 10 0028 069b 4000 40 06 0000 7f000001 7f000001
	c357 0911 11111111 00000000 50 02 ffc4 0000 0000
	0000 58000000
` + block0 + `
	000000000000 000000000000 0800
	45 10 0028 069b 4000 40 06 0000 7f000001 7f000001
	0911 c357 ffffffff 11111112 50 12 ffc4 0000 0000
	0000 58000000
` + block0 + `
	000000000000 000000000000 0800
	45 10 0028 069b 4000 40 06 0000 7f000001 7f000001
	c357 0911 11111112 00000000 50 10 ffc4 0000 0000
	0000 58000000
`

// block0 is an Enhanced Packet Block up to the frame, which has no payload.
const block0 = `06000000 58000000 00000000 57560500 5b5a5958 36000000 36000000`

// TestGolden checks all bytes of a recording. A command with a response of three bytes shows the
// padding; the last frames show how the sequence numbers continue.
func TestGolden(t *testing.T) {
	path := t.TempDir() + "/f"
	c, err := open(Options{File: path, FD: -1, Mode: 0o640, Note: t.Errorf}, fixedTime, fixedRandom(7, 0x11111111, 0xffffffff))
	if err != nil {
		t.Fatal(err)
	}
	c.w.flush()
	if got, want := read(t, path), harness.Unhex(start); !bytes.Equal(got, want) || len(got) != 312 {
		t.Errorf("after the start: %d bytes\n%x, want\n%x", len(got), got, want)
	}
	c.Command(harness.Unhex("80010000000c 0000017b 0008"))
	c.Response(harness.Unhex("aabbcc"))
	c.Close()
	<-c.w.done
	c.Command([]byte("too late"))
	c.Close()
	<-c.w.done
	want := harness.Unhex(start + `
		06000000 64000000 00000000 57560500 5b5a5958 42000000 42000000
		000000000000 000000000000 0800
		45 10 0034 069b 4000 40 06 0000 7f000001 7f000001
		c357 0911 11111112 00000000 50 00 ffc4 0000 0000
		80010000000c 0000017b 0008
		0000 64000000

		06000000 5c000000 00000000 57560500 5b5a5958 39000000 39000000
		000000000000 000000000000 0800
		45 10 002b 069b 4000 40 06 0000 7f000001 7f000001
		0911 c357 00000000 00000000 50 00 ffc4 0000 0000
		aabbcc
		000000 5c000000
	` + block0 + `
		000000000000 000000000000 0800
		45 10 0028 069b 4000 40 06 0000 7f000001 7f000001
		c357 0911 1111111e 00000000 50 01 ffc4 0000 0000
		0000 58000000
	` + block0 + `
		000000000000 000000000000 0800
		45 10 0028 069b 4000 40 06 0000 7f000001 7f000001
		0911 c357 00000003 1111111f 50 11 ffc4 0000 0000
		0000 58000000
	` + block0 + `
		000000000000 000000000000 0800
		45 10 0028 069b 4000 40 06 0000 7f000001 7f000001
		c357 0911 1111111f 00000004 50 10 ffc4 0000 0000
		0000 58000000
	`)
	if got := read(t, path); !bytes.Equal(got, want) {
		t.Errorf("the file is\n%x, want\n%x", got, want)
	}
}

// TestSum compares with sums that were made by adding each carry at once, in
// which no fold can be forgotten.
func TestSum(t *testing.T) {
	oneByOne := func(b []byte) uint16 {
		var sum uint32
		for len(b) > 0 {
			if len(b) == 1 {
				b = append(append([]byte(nil), b...), 0)
			}
			if sum += uint32(binary.BigEndian.Uint16(b)); sum > 0xffff {
				sum -= 0xffff
			}
			b = b[2:]
		}
		return ^uint16(sum)
	}
	for _, b := range [][]byte{
		nil, {1}, {0xff}, {0xff, 0xff}, bytes.Repeat([]byte{0xff}, 4105), bytes.Repeat([]byte{0xff, 0xfe}, 3000),
		// The sum is 0x1ffff: after one carry there is another.
		append(bytes.Repeat([]byte{0xff}, 4), 0, 1),
	} {
		if got, want := checksum(b), oneByOne(b); got != want {
			t.Errorf("checksum of %d bytes %.8x = %04x, want %04x", len(b), b, got, want)
		}
	}
	// Source: RFC 1071, section 3.
	if got := checksum(harness.Unhex("0001 f203 f4f5 f6f7")); got != ^uint16(0xddf2) {
		t.Errorf("checksum of RFC 1071's bytes = %04x, want %04x", got, ^uint16(0xddf2))
	}

	c := connection{port: 50000, checksums: true}
	for n := range 300 {
		f := c.frame(side(n%2), 0, bytes.Repeat([]byte{byte(n * 7)}, n))
		ip, tcp := f[14:34], f[34:]
		pseudo := append(append([]byte(nil), ip[12:20]...), 0, 6, byte(len(tcp)>>8), byte(len(tcp)))
		if checksum(ip) != 0 || checksum(pseudo, tcp) != 0 { // with the sum itself it is zero
			t.Fatalf("payload of %d bytes: wrong checksums in %x", n, f)
		}
		if binary.BigEndian.Uint16(ip[10:]) == 0 {
			t.Fatalf("payload of %d bytes: no checksum", n)
		}
	}
}

// TestAppendAndTruncate checks that a second recording is appended or replaces the first one, and
// the mode of the file.
func TestAppendAndTruncate(t *testing.T) {
	path := t.TempDir() + "/f"
	session := func(o Options) {
		t.Helper()
		o.File, o.Note = path, t.Errorf
		c, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		<-c.w.done
	}
	const once = 312 + 3*88
	old := unix.Umask(0o077)
	session(Options{Mode: 0o664})
	unix.Umask(old)
	if fi, _ := os.Stat(path); fi.Mode() != 0o664 {
		t.Errorf("mode = %v, want 0664 whatever the umask", fi.Mode())
	}
	session(Options{Mode: 0o600})
	if b := read(t, path); len(b) != 2*once || !bytes.Equal(b[:28], b[once:once+28]) {
		t.Errorf("after a second start %d bytes, want %d and another section", len(b), 2*once)
	}
	if fi, _ := os.Stat(path); fi.Mode() != 0o600 {
		t.Errorf("mode = %v, want 0600 though the file was there", fi.Mode())
	}
	session(Options{Mode: 0o600, Truncate: true})
	if b := read(t, path); len(b) != once {
		t.Errorf("after truncate %d bytes, want %d", len(b), once)
	}
	// The same by descriptor, whose position is anywhere.
	for _, truncate := range []bool{false, true} {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Dup(int(f.Fd()))
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		c, err := Open(Options{FD: fd, Mode: 0o604, Truncate: truncate, Note: t.Errorf})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		<-c.w.done
		want := map[bool]int{false: 2 * once, true: once}[truncate]
		if b := read(t, path); len(b) != want {
			t.Errorf("by descriptor, truncate %v: %d bytes, want %d", truncate, len(b), want)
		}
		if fi, _ := os.Stat(path); fi.Mode() != 0o604 {
			t.Errorf("mode = %v, want 0604", fi.Mode())
		}
	}
}

// TestRefused checks that unsuitable files are refused and not changed, and that no open waits.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.WriteFile(file("linked"), []byte("x"), 0o600))
	check(os.Link(file("linked"), file("hard")))
	check(os.Symlink(file("target"), file("symbolic")))
	check(unix.Mkfifo(file("fifo"), 0o600))
	check(unix.Mkfifo(file("read"), 0o600))
	r, err := os.OpenFile(file("read"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	check(err)
	defer r.Close()
	readOnly, err := os.Open(file("linked"))
	check(err)
	defer readOnly.Close()
	for _, g := range []struct {
		o    Options
		want string
	}{
		{Options{File: file("hard")}, "hard links"},
		{Options{File: file("symbolic")}, "symbolic link; name the file itself"},
		{Options{File: file("fifo")}, "not a regular file"},
		{Options{File: file("read")}, "not a regular file"},
		{Options{File: dir}, "is a directory"},
		{Options{File: "/dev/null"}, "not a regular file"},
		{Options{File: file("no/where")}, "no such file"},
		{Options{FD: int(readOnly.Fd())}, "not open for writing"},
		{Options{FD: 999999}, "bad file descriptor"},
	} {
		g.o.Truncate = true
		c, err := Open(g.o)
		if err == nil {
			c.Close()
			<-c.w.done
		}
		if err == nil || !strings.Contains(err.Error(), g.want) || !strings.HasPrefix(err.Error(), "pcap: ") {
			t.Errorf("Open(%+v) = %v, want %s", g.o, err, g.want)
		}
	}
	if b := read(t, file("linked")); string(b) != "x" {
		t.Errorf("a file with two names has %q, want it as it was", b)
	}
	if _, err := os.Stat(file("target")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target of a link: %v, want none", err)
	}
}

// upper is a filter that shows what it was asked for.
type upper struct{}

func (upper) Command(b []byte) []byte  { return append([]byte("C:"), bytes.ToUpper(b)...) }
func (upper) Response(b []byte) []byte { return append([]byte("R:"), bytes.ToUpper(b)...) }

// TestFilter checks that the filter changes commands and responses before they are written.
func TestFilter(t *testing.T) {
	path := t.TempDir() + "/f"
	c, err := Open(Options{File: path, Mode: 0o600, Filter: upper{}, Note: t.Errorf})
	if err != nil {
		t.Fatal(err)
	}
	c.Command([]byte("secret one"))
	c.Response([]byte("secret two"))
	c.Close()
	<-c.w.done
	b := read(t, path)
	if !bytes.Contains(b, []byte("C:SECRET ONE")) || !bytes.Contains(b, []byte("R:SECRET TWO")) || bytes.Contains(b, []byte("secret")) {
		t.Errorf("the file is %q, want what the filter made", b)
	}
}
