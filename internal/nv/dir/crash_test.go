package dir

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// The model of a file system at a power cut. The bytes of a file may be on the disk, in part,
// or not, until that file is synced; so may changes of names until the directory is synced.
// Changes of names reach the disk in any order.

// inode is a file: what was written, and how many bytes of it are safe.
type inode struct {
	content string
	safe    int
}

// change is one of the directory: a name gets a file or loses its own.
type change func(names map[string]*inode)

type model struct {
	now     map[string]*inode // as programs see it
	disk    map[string]*inode // as it is on the disk
	pending []change          // from disk to now
	acked   string            // the last blob that was acknowledged
	writing string            // the blob that may replace it
}

func newModel(old string) *model {
	file := &inode{old, len(old)}
	return &model{now: map[string]*inode{permall: file}, disk: map[string]*inode{permall: file}, acked: old}
}

func (m *model) do(c change) {
	c(m.now)
	m.pending = append(m.pending, c)
}

// apply does one system call of a store.
func (m *model) apply(t *testing.T, c call) {
	t.Helper()
	if c.errs || c.name == "openat" && !c.on("O_CREAT") {
		return
	}
	s := c.strings(t)
	switch {
	case c.on("acks"):
		if c.name == "write" {
			m.acked, m.writing = strings.TrimPrefix(s[0], "ack-"), ""
		}
	case c.name == "openat":
		name, file := s[0], &inode{}
		m.do(func(names map[string]*inode) { names[name] = file })
	case c.name == "unlinkat":
		name := s[0]
		m.do(func(names map[string]*inode) { delete(names, name) })
	case c.name == "write":
		file := m.now[c.file()]
		file.content += s[0]
		m.writing = file.content
	case c.name == "fsync" && m.now[c.file()] != nil:
		m.now[c.file()].safe = len(m.now[c.file()].content)
	case c.name == "fsync":
		m.disk, m.pending = maps.Clone(m.now), nil
	case strings.HasPrefix(c.name, "renameat"):
		from, to := s[0], s[1]
		a, b := m.now[from], m.now[to]
		if c.on("RENAME_EXCHANGE") {
			m.do(func(names map[string]*inode) { names[from], names[to] = b, a })
		} else {
			m.do(func(names map[string]*inode) { delete(names, from); names[to] = a })
		}
	case slices.Contains([]string{"fchmod", "fstat", "newfstatat", "close", "fcntl", "flock", "read"}, c.name):
	default:
		t.Fatalf("%s(%s) is not in the model", c.name, c.args)
	}
}

// images are all that a power cut at this moment may leave.
func (m *model) images() []map[string]string {
	var all []map[string]string
	for set := range 1 << len(m.pending) {
		names := maps.Clone(m.disk)
		for i, c := range m.pending {
			if set>>i&1 == 1 {
				c(names)
			}
		}
		for lost := range 3 { // all of what is not safe, half, nothing
			image := map[string]string{}
			for name, file := range names {
				image[name] = file.content[:file.safe+(len(file.content)-file.safe)*lost/2]
			}
			all = append(all, image)
		}
	}
	return all
}

// losses runs the calls through the model and returns a line for each image,
// after each call, that has lost what was acknowledged.
func losses(t *testing.T, old string, calls []call, o nv.Options) (lost []string, images int) {
	t.Helper()
	m := newModel(old)
	check := func(when string) {
		for _, image := range m.images() {
			images++
			path := t.TempDir()
			for name, content := range image {
				write(t, filepath.Join(path, name), content)
			}
			d := open(t, path, o)
			b, err := d.Load(permall)
			d.Close()
			os.RemoveAll(path)
			if got := string(b); err != nil || got != m.acked && (got != m.writing || got == "") {
				lost = append(lost, fmt.Sprintf("after %s: state %q, %v, want %q or %q", when, got, err, m.acked, m.writing))
			}
		}
	}
	check("start")
	for _, c := range calls {
		m.apply(t, c)
		check(fmt.Sprintf("%s(%s)", c.name, c.args))
	}
	if m.acked != "three" {
		t.Fatalf("the last acknowledged blob is %q", m.acked)
	}
	return lost, images
}

// TestPowerCut replays what a power cut may leave at each moment of three
// stores: an acknowledged one is never lost. To show that the model finds
// losses, it also replays what is known to lose: no sync at all, and the
// reference's order, which syncs the directory before the rename.
func TestPowerCut(t *testing.T) {
	for _, mode := range []string{"", "backup"} {
		o := nv.Options{Prefix: "tpm2-00.", Backup: mode == "backup"}
		_, calls, stderr := child(t, "old", "one two three", mode, "")
		lost, images := losses(t, "old", calls, o)
		for _, l := range lost {
			t.Errorf("mode %q: %s\n%s", mode, l, stderr)
		}
		if images < 100 {
			t.Errorf("mode %q: %d images only", mode, images)
		}
		t.Logf("mode %q: %d images, %d losses", mode, images, len(lost))
	}

	_, calls, _ := child(t, "old", "one two three", "relaxed", "")
	if lost, images := losses(t, "old", calls, nv.Options{Prefix: "tpm2-00."}); len(lost) == 0 {
		t.Errorf("no loss in %d images without any sync: the model sees nothing", images)
	}

	_, calls, _ = child(t, "old", "one two three", "", "")
	for i := len(calls) - 2; i >= 0; i-- {
		if calls[i].name == "renameat" {
			calls[i], calls[i+1] = calls[i+1], calls[i]
		}
	}
	if lost, images := losses(t, "old", calls, nv.Options{Prefix: "tpm2-00."}); len(lost) == 0 {
		t.Errorf("no loss in %d images with the directory synced before the rename: the model sees nothing", images)
	}
}
