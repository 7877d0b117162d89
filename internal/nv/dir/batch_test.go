package dir

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// The batch of the tests: it replaces two files, makes one, and removes one.
var (
	oldFiles = map[string]string{permall: "old permall", permall + ".bak": "old backup", savestate: "old savestate"}
	newFiles = map[string]string{permall: "new permall", permall + ".bak": "new backup", volstate: "new volatile"}
	batch    = []nv.Change{
		{Name: permall, Blob: []byte("new permall")},
		{Name: volstate, Blob: []byte("new volatile")},
		{Name: savestate},
		{Name: permall + ".bak", Blob: []byte("new backup")},
	}
)

// childBatch is childMain for the batch.
func childBatch(d *Dir, acks *os.File) int {
	if err := errors.Join(d.Lock(), d.Apply(batch)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := acks.WriteString("ack-batch"); err != nil {
		panic(err)
	}
	d.Close()
	return 0
}

// stateFiles returns the items in the directory, as the next process that locks it finds
// them, and the other files. items is empty if the directory cannot be locked.
func stateFiles(t *testing.T, path string) (items map[string]string, others []string) {
	t.Helper()
	d := open(t, path, nv.Options{Prefix: "tpm2-00.", Lock: true})
	if err := d.Lock(); err != nil {
		return nil, []string{err.Error()}
	}
	defer d.Close()
	items = map[string]string{}
	for name := range strings.FieldsSeq(names(t, path)) {
		switch {
		case strings.HasPrefix(name, "tpm2-00."):
			b, err := os.ReadFile(filepath.Join(path, name))
			if err != nil {
				t.Fatal(err)
			}
			items[name] = string(b)
		case name != lockName:
			others = append(others, name)
		}
	}
	return items, others
}

func apply(t *testing.T, path string, changes []nv.Change) error {
	t.Helper()
	d := open(t, path, options(t))
	defer d.Close()
	if err := d.Lock(); err != nil {
		t.Fatal(err)
	}
	return d.Apply(changes)
}

func fill(t *testing.T, files map[string]string) (path string) {
	t.Helper()
	path = t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(path, name), content)
	}
	return path
}

// TestApply checks that a batch changes all files, retains their modes, and removes what
// interrupted processes left.
func TestApply(t *testing.T) {
	files := maps.Clone(oldFiles)
	// Left by stores and batches that were cut short.
	for _, name := range []string{temp, "TMP2-00.savestate", "NEW2-00.volatilestate", journalFile + ".tmp"} {
		files[name] = "what is left"
	}
	path := fill(t, files)
	if err := os.Chmod(filepath.Join(path, permall), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := apply(t, path, batch); err != nil {
		t.Fatal(err)
	}
	got, others := stateFiles(t, path)
	if !maps.Equal(got, newFiles) || len(others) > 0 {
		t.Errorf("items %q and %q, want %q alone", got, others, newFiles)
	}
	if fi, err := os.Stat(filepath.Join(path, permall)); err != nil || fi.Mode() != 0o600 {
		t.Errorf("the mode was 0600 and is %v, %v", fi.Mode(), err)
	}
}

// TestApplyRefuses checks the batches that are refused.
func TestApplyRefuses(t *testing.T) {
	for what, changes := range map[string][]nv.Change{
		"nothing":                    {},
		"nothing is stored first":    {{Name: volstate}, {Name: permall, Blob: []byte("x")}},
		"a name that leads out":      {{Name: permall, Blob: []byte("x")}, {Name: "../x", Blob: []byte("x")}},
		"a directory is in the way":  {{Name: permall, Blob: []byte("x")}, {Name: "tpm2-00.d", Blob: []byte("x")}},
		"left by a swap with backup": {{Name: permall, Blob: []byte("x")}},
	} {
		path := fill(t, oldFiles)
		if err := os.Mkdir(filepath.Join(path, "tpm2-00.d"), 0o700); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(what, "left") {
			write(t, filepath.Join(path, permall+".tmp"), "the older one")
		}
		before := names(t, path)
		if err := apply(t, path, changes); err == nil {
			t.Errorf("%s: no error", what)
		}
		if got := names(t, path); got != strings.TrimSpace(lockName+" "+before) {
			t.Errorf("%s: files %s, want %s", what, got, before)
		}
		wantFile(t, filepath.Join(path, permall), oldFiles[permall])
	}
	d := open(t, fill(t, oldFiles), options(t))
	if err := d.Apply(batch); err == nil {
		t.Error("without the lock: no error")
	}
}

// TestBatchFaults makes each system call of a batch fail, and kills the process at each. The
// next process that locks the directory must find all the old files or all the new ones, the
// acknowledged ones in any case, and nothing else.
func TestBatchFaults(t *testing.T) {
	t.Parallel()
	top, calls, stderr := childOn(t, oldFiles, "x", "batch", "")
	if got, _ := stateFiles(t, filepath.Join(top, "state")); !maps.Equal(got, newFiles) {
		t.Fatalf("without a fault: %q; %s", got, stderr)
	}
	outcomes := map[string]int{}
	for _, c := range calls {
		if c.on("acks") {
			continue
		}
		faults := []string{"error=EIO"}
		if c.on("O_CREAT") || slices.Contains([]string{"write", "fsync", "renameat", "unlinkat"}, c.name) {
			faults = append(faults, "signal=KILL") // the others change nothing
		}
		for _, fault := range faults {
			inject := fmt.Sprintf("%s:%s:when=%d", c.name, fault, c.nth)
			top, _, stderr := childOn(t, oldFiles, "x", "batch", inject)
			ack, _ := os.ReadFile(filepath.Join(top, "acks"))
			path := filepath.Join(top, "state")
			got, others := stateFiles(t, path)
			switch {
			case maps.Equal(got, newFiles):
				outcomes[fault+" new"]++
			case maps.Equal(got, oldFiles) && len(ack) == 0:
				outcomes[fault+" old"]++
			default:
				t.Errorf("%s: acknowledged %q, the items are %q; %s", inject, ack, got, stderr)
			}
			if len(others) > 0 {
				t.Errorf("%s: files %q are left", inject, others)
			}
			if err := apply(t, path, batch); err != nil {
				t.Errorf("%s: the next batch: %v", inject, err)
			}
			if got, others := stateFiles(t, path); !maps.Equal(got, newFiles) || len(others) > 0 {
				t.Errorf("%s: after the next batch %q and %q", inject, got, others)
			}
		}
	}
	for _, what := range []string{"error=EIO old", "error=EIO new", "signal=KILL old", "signal=KILL new"} {
		if outcomes[what] < 5 {
			t.Errorf("%s: %d times; %v", what, outcomes[what], outcomes)
		}
	}
}

// TestBatchPowerCut replays what a power cut may leave at each moment of a batch.
// To show that the model finds losses it also replays one without the sync that
// decides.
func TestBatchPowerCut(t *testing.T) {
	t.Parallel()
	_, calls, _ := childOn(t, oldFiles, "x", "batch", "")
	lost, images := batchLosses(t, calls)
	for _, l := range lost {
		t.Error(l)
	}
	if images < 50 {
		t.Errorf("%d images only", images)
	}
	var bare []call
	for _, c := range calls {
		if c.name != "fsync" || !c.on("/state>") {
			bare = append(bare, c)
		}
	}
	if lost, images := batchLosses(t, bare); len(lost) == 0 {
		t.Errorf("no loss in %d images without a sync of the directory: the model sees nothing", images)
	}
}

func batchLosses(t *testing.T, calls []call) (lost []string, images int) {
	t.Helper()
	m := &model{now: map[string]*inode{}, disk: map[string]*inode{}}
	for name, content := range oldFiles {
		m.now[name] = &inode{content, len(content)}
	}
	m.disk = maps.Clone(m.now)
	seen := map[string]bool{}
	for _, c := range calls {
		m.apply(t, c)
		for _, image := range m.images() {
			key := fmt.Sprint(m.acked, image)
			if seen[key] {
				continue
			}
			seen[key] = true
			images++
			path := fill(t, image)
			got, _ := stateFiles(t, path)
			os.RemoveAll(path)
			if !maps.Equal(got, newFiles) && (m.acked != "" || !maps.Equal(got, oldFiles)) {
				lost = append(lost, fmt.Sprintf("after %s(%s), acknowledged %q: %q becomes %q", c.name, c.args, m.acked, image, got))
			}
		}
	}
	return lost, images
}

// TestBatchOvertaken checks that an interrupted batch is not completed over files that another
// program has stored since.
func TestBatchOvertaken(t *testing.T) {
	for _, first := range []bool{true, false} {
		path := fill(t, oldFiles)
		d := open(t, path, options(t))
		if err := d.Lock(); err != nil {
			t.Fatal(err)
		}
		j, err := d.stage(batch)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.files.RenameAt(journalFile+".tmp", journalFile, 0); err != nil {
			t.Fatal(err)
		}
		want := maps.Clone(oldFiles)
		if first {
			want[permall] = "newer permall"
			write(t, filepath.Join(path, permall), "newer permall")
		} else {
			if err := d.do(rename, j[0].name); err != nil {
				t.Fatal(err)
			}
			want = maps.Clone(newFiles)
			want[permall], want[volstate] = "newer permall", "newer volatile"
			write(t, filepath.Join(path, permall), "newer permall")
			write(t, filepath.Join(path, volstate), "newer volatile")
		}
		d.Close()
		if got, others := stateFiles(t, path); !maps.Equal(got, want) || len(others) > 0 {
			t.Errorf("first %t: items %q and %q, want %q", first, got, others, want)
		}
	}
}

// TestJournalDamage checks that a damaged journal is refused and no file changes.
func TestJournalDamage(t *testing.T) {
	j := journal{{permall, noDigest, strings.Repeat("ab", 32)}, {volstate, strings.Repeat("01", 32), noDigest}}
	good := string(j.encode())
	for _, bad := range []string{
		"", good[1:], good[:len(good)-1], good + "x", strings.Replace(good, permall, "tpm2-00.permalx", 1),
		strings.Replace(good, "ab", "ac", 1), strings.Replace(good, "end", "End", 1),
		string(journal{{"tpm-00.permall", noDigest, strings.Repeat("ab", 32)}}.encode()),
		string(journal{{"tpm2-00.", noDigest, strings.Repeat("ab", 32)}}.encode()),
		string(journal{{"tpm2-00./../x", noDigest, strings.Repeat("ab", 32)}}.encode()),
		string(journal{{volstate, strings.Repeat("ab", 32), noDigest}}.encode()),
		string(journal{}.encode()),
	} {
		if got, err := decodeJournal("tpm2-00.", []byte(bad)); err == nil {
			t.Errorf("decodeJournal(%q) = %v", bad, got)
		}
		path := fill(t, oldFiles)
		write(t, filepath.Join(path, journalFile), bad)
		d := open(t, path, options(t))
		if err := d.Lock(); err == nil || !strings.Contains(err.Error(), journalFile) {
			t.Errorf("Lock with the journal %q = %v", bad, err)
		}
		d.Close()
		for name, content := range oldFiles {
			wantFile(t, filepath.Join(path, name), content)
		}
	}
}

// TestLongJournal checks that a long journal is refused, so that its reader does not read files for hours.
func TestLongJournal(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	twice := journal{{permall, noDigest, sum}, {permall, noDigest, noDigest}}
	var long journal
	for n := range maxEntries + 1 {
		long = append(long, entry{fmt.Sprintf("tpm2-00.%d", n), noDigest, sum})
	}
	for _, j := range []journal{twice, long} {
		if _, err := decodeJournal("tpm2-00.", j.encode()); err == nil {
			t.Errorf("decodeJournal of %d entries = nil, want an error", len(j))
		}
	}
	if _, err := decodeJournal("tpm2-00.", long[:maxEntries].encode()); err != nil {
		t.Errorf("decodeJournal of %d entries = %v", maxEntries, err)
	}
}

// FuzzJournal checks that a decoded journal is encoded to the same bytes and has valid names only.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(journalHead + "end \n"))
	f.Add(journal{{permall, noDigest, strings.Repeat("ab", 32)}, {volstate, strings.Repeat("01", 32), noDigest}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := decodeJournal("tpm2-00.", b)
		if err != nil {
			return
		}
		if got := j.encode(); string(got) != string(b) {
			t.Errorf("decodeJournal(%q) is encoded as %q", b, got)
		}
		for _, e := range j {
			if checkName(e.name) != nil {
				t.Errorf("decodeJournal(%q) has the name %q", b, e.name)
			}
		}
	})
}
