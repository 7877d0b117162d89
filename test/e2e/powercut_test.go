package e2e_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestPowerCut checks that a power cut at any moment of several increments leaves a state that
// starts, with the last acknowledged number or its successor.
//
// strace records writes, syncs, renames and responses. disk replays them with the freedom that a
// kernel has: bytes that were not synced may be present, absent or present in part, and names
// that were not synced may be old or new.
func TestPowerCut(t *testing.T) {
	needRoot(t, "the emulator lets nobody else trace it")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	t.Run("store", cutPowerOfStore)
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) { cutPower(t, v) })
	}
}

// cutPower cuts the power of a TPM of version v after each of its system calls.
func cutPower(t *testing.T, v version) {
	t.Parallel()
	bumps := 5
	if os.Getenv(fullVar) != "" {
		bumps = 50 // a TPM 1.2 without an owner allows few more
	}
	seed := makeState(t, v)
	e, state := withState(t, inDir, v, seed)
	ch := e.power(t, v)
	powered := harness.Read(t, filepath.Join(state, v.file())) // as TPM_Startup left it
	s := attachTo(t, e, []string{"-y", "-xx", "-s", "65536", "-e",
		"trace=openat,write,pwrite64,writev,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,sendto,sendmsg"})
	for n := range uint64(bumps) {
		if err := ch.bump(2 + n); err != nil {
			t.Fatal(err)
		}
	}
	// strace may be late; ended, it would not see the end of the last answer.
	if err := harness.Until(func() bool { return diskAfter(t, s, state, v, powered).acknowledged >= bumps }); err != nil {
		t.Error(err)
	}
	s.detach(t)
	e.Kill(t)

	d := newDisk(state, v.file(), powered)
	cuts := map[string]cut{} // by the content of the state file
	first, images := decodeItem(t, "permall", powered).Record.Generation, 0
	for _, ev := range events(t, s.file) {
		d.apply(ev)
		for _, content := range d.images() {
			images++
			// The mark is written after what was acknowledged is on the disk: with
			// the newest one possible, no image is older.
			mark := generation.Mark{Identity: decodeItem(t, "permall", powered).Record.Identity}
			mark.Known.Raise(generation.Permanent, first+uint64(d.acknowledged))
			if err := generation.Check([]generation.Found{decodeItem(t, "permall", content)}, &mark); err != nil {
				t.Errorf("power cut after %s: false alarm: %v", ev.text, err)
			}
			c, seen := cuts[content]
			if !seen || d.acknowledged > c.least {
				c.least = d.acknowledged
			}
			c.after = ev.text
			cuts[content] = c
		}
	}
	if d.acknowledged != bumps || len(cuts) != bumps+1 {
		t.Errorf("strace has seen %d answers, which left %d different states; want %d and %d", d.acknowledged, len(cuts), bumps, bumps+1)
	}
	t.Logf("%d images of a power cut, %d different", images, len(cuts))
	for content, c := range cuts {
		checkCut(t, v, content, c)
	}
}

// diskAfter returns the disk after the system calls that strace has written down.
func diskAfter(t *testing.T, s *tracer, state string, v version, powered string) *disk {
	d := newDisk(state, v.file(), powered)
	for _, ev := range events(t, s.file) {
		d.apply(ev)
	}
	return d
}

// cut describes a state that a power cut may leave.
type cut struct {
	least int    // bumps that were acknowledged when it could still come about
	after string // the system call before the cut
}

func checkCut(t *testing.T, v version, content string, c cut) {
	t.Helper()
	dir := harness.TempDir(t)
	write(t, filepath.Join(dir, v.file()), []byte(content))
	e := start(t, setup{tpm: v, state: dir})
	ctrl := e.control(t)
	if err := ctrl.Init(0); err != nil {
		t.Errorf("power cut after %s: a state of %d bytes does not start: %v", c.after, len(content), err)
		return
	}
	_ = ctrl.Close()
	got := e.open(t, v).withStartup(t).number(t)
	if got < uint64(1+c.least) || got > uint64(2+c.least) {
		t.Errorf("power cut after %s: the number is %d, %d was acknowledged", c.after, got, 1+c.least)
	}
	e.Kill(t)
}

// event is one system call that succeeded.
type event struct {
	name  string
	paths []string // of descriptors, and of names within them
	bytes string   // that were written
	off   int      // where, for pwrite64
	text  string   // for people
}

var (
	unescape   = regexp.MustCompile(`\\x([0-9a-f]{2})`)
	descriptor = regexp.MustCompile(`^(?:AT_FDCWD|[0-9]+)<([^>]*)>`)
	quoted     = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"`)
	callLine   = regexp.MustCompile(`^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$`)
)

// events reads the output of strace -f -y -xx.
func events(t *testing.T, file string) (list []event) {
	t.Helper()
	for _, c := range succeeded(t, file) {
		list = append(list, parse(c.name, c.args, c.ret))
	}
	return list
}

// tracedCall is a line of strace.
type tracedCall struct{ name, args, ret string }

// succeeded reads the output of strace -f -y -xx. A call whose line other lines interrupt counts
// when its second half is written. Failed calls are left out.
func succeeded(t *testing.T, file string) (list []tracedCall) {
	t.Helper()
	open := map[string]string{} // the first halves, by thread
	for line := range strings.Lines(harness.Read(t, file)) {
		m := callLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil || !strings.HasSuffix(line, "\n") { // strace is writing the line
			continue
		}
		thread, name, rest := m[1], m[2], m[3]
		if first, ok := strings.CutSuffix(rest, " <unfinished ...>"); ok {
			open[thread] = first
			continue
		}
		if strings.Contains(m[0], " resumed>") {
			rest = open[thread] + rest
		}
		args, ret, ok := cutLast(rest, ") = ")
		if !ok || strings.HasPrefix(strings.TrimSpace(ret), "-1") {
			continue
		}
		list = append(list, tracedCall{name, args, ret})
	}
	return list
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		i = strings.LastIndex(s, ")  ")
		if i < 0 {
			return s, "", false
		}
		_, after, ok = strings.Cut(s[i:], "= ")
		return s[:i], after, ok
	}
	return s[:i], s[i+len(sep):], true
}

// parse takes the paths and the bytes out of one call.
func parse(name, args, ret string) event {
	ev := event{name: name}
	dir := ""
	if m := descriptor.FindStringSubmatch(args); m != nil {
		dir = plain(m[1])
	}
	switch name {
	case "write", "pwrite64", "writev", "sendto", "sendmsg":
		ev.paths = []string{dir}
		for _, m := range quoted.FindAllStringSubmatch(args, -1) {
			ev.bytes += plain(m[1])
		}
		if n, err := strconv.Atoi(strings.Fields(ret)[0]); err == nil && n < len(ev.bytes) {
			ev.bytes = ev.bytes[:n]
		}
		if name == "pwrite64" {
			ev.off, _ = strconv.Atoi(args[strings.LastIndex(args, " ")+1:])
		}
	case "fsync", "fdatasync", "ftruncate":
		ev.paths = []string{dir}
	default: // names; the directory is the same for both of a rename
		for _, m := range quoted.FindAllStringSubmatch(args, -1) {
			p := plain(m[1])
			if !filepath.IsAbs(p) {
				p = filepath.Join(dir, p)
			}
			ev.paths = append(ev.paths, p)
		}
		if strings.Contains(args, "O_TRUNC") || strings.Contains(args, "O_CREAT") && strings.Contains(args, "O_EXCL") {
			ev.name = "create"
		}
	}
	ev.text = fmt.Sprintf("%s(%s)", name, strings.Join(ev.paths, ", "))
	return ev
}

func plain(s string) string {
	return unescape.ReplaceAllStringFunc(s, func(x string) string {
		n, _ := strconv.ParseUint(x[2:], 16, 8)
		return string([]byte{byte(n)})
	})
}

// inode is a file: its content that is certainly on the disk, and the writes since.
type inode struct{ synced, written string }

// disk is a directory with names whose changes may not be on the disk yet.
type disk struct {
	dir, file    string
	now          map[string]*inode   // the names as the process sees them
	durable      map[string]*inode   // as they are on the disk for certain
	pending      []map[string]*inode // the changes since, one after the other
	acknowledged int
}

func newDisk(dir, file, content string) *disk {
	i := &inode{content, content}
	path := filepath.Join(dir, file)
	return &disk{dir: dir, file: path, now: map[string]*inode{path: i}, durable: map[string]*inode{path: i}}
}

// apply plays one system call.
func (d *disk) apply(ev event) {
	if len(ev.paths) == 0 {
		return
	}
	p := ev.paths[0]
	file := d.now[p]
	switch {
	case strings.HasPrefix(p, "socket:") || strings.HasPrefix(p, "UNIX"):
		if strings.HasPrefix(ev.bytes, "\x80") || strings.HasPrefix(ev.bytes, "\x00\xc4") {
			d.acknowledged++
		}
	case filepath.Dir(p) != d.dir && p != d.dir:
	case ev.name == "create":
		d.now[p] = &inode{}
		d.rename()
	case ev.name == "unlink" || ev.name == "unlinkat":
		delete(d.now, p)
		d.rename()
	case strings.HasPrefix(ev.name, "rename"):
		d.now[ev.paths[1]] = d.now[p]
		delete(d.now, p)
		d.rename()
	case strings.HasSuffix(ev.name, "sync") && p == d.dir:
		d.durable, d.pending = maps.Clone(d.now), nil
	case file == nil:
	case strings.HasSuffix(ev.name, "sync"):
		file.synced = file.written
	case ev.name == "ftruncate":
		file.written = ""
	default:
		file.written += ev.bytes
	}
}

// rename notes that the names have changed.
func (d *disk) rename() { d.pending = append(d.pending, maps.Clone(d.now)) }

// images returns each content that the state file may have after a power cut.
func (d *disk) images() (list []string) {
	for _, names := range append([]map[string]*inode{d.durable}, d.pending...) {
		i, ok := names[d.file]
		if !ok {
			list = append(list, "")
			continue
		}
		list = append(list, i.synced)
		if i.written != i.synced {
			list = append(list, i.written, i.written[:len(i.written)/2])
		}
	}
	return list
}
