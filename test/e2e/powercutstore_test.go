package e2e_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// etcdQuickly are options of a member that syncs, and starts soon.
var etcdQuickly = []string{"--unsafe-no-fsync=false", "--heartbeat-interval=20", "--election-timeout=200", "--log-level=panic"}

// cutPowerOfStore cuts the power of the whole host, with the only member of its store, at any
// moment of several bumps. One strace records what etcd writes and syncs, and when the TPM
// answers; etcd is started with each disk that may be left, and has the last number that was
// acknowledged or one that was sent.
func cutPowerOfStore(t *testing.T) {
	t.Parallel()
	bumps, most := 4, 4
	if os.Getenv(fullVar) != "" {
		bumps, most = 40, 200
	}
	member := etcdtest.Start(t, etcdQuickly...)
	k := newBrokerOf(t, member).keeping()
	place := k.place(t)
	e, ch := startDefined(t, k, place)
	base := decodeItem(t, "permall", string(k.read(t, v20, place))).Record
	member.Kill()
	d := newEtcdDisk(t, member.Dir)
	trace := filepath.Join(harness.TempDir(t), "strace")
	member.Restart(t, "strace", "-f", "-y", "-xx", "-s", "1048576", "-o", trace, "-p", fmt.Sprint(e.Cmd.Process.Pid),
		"-e", "trace=lseek,write,pwrite64,pwritev,writev,ftruncate,fsync,fdatasync,sendto,sendmsg")
	sent := 1
	for acknowledged := 0; acknowledged < bumps; sent++ {
		if ch.bump(0) == nil {
			acknowledged++
		}
		if sent > bumps+100 {
			t.Fatal("the TPM does not find the member again")
		}
	}
	awaitAnswers(t, trace, bumps)
	e.Kill(t)
	member.Kill()

	last := -1 // number of answers at the cut before
	calls := succeeded(t, trace)
	cuts := 0
	for i, c := range calls {
		d.apply(c)
		// Unsynced content counts most right after an answer. Other moments follow at equal distances.
		answered := d.acknowledged != last
		last = d.acknowledged
		if d.acknowledged == 0 || !answered && i%max(1, len(calls)/most) != 0 {
			continue
		}
		modes := []cutMode{onlySynced}
		if !answered || most > 10 {
			modes = cutModes[cuts%len(cutModes):][:1]
		}
		if answered && most > 10 {
			modes = append(modes, onlySynced)
		}
		for _, mode := range modes {
			cuts++
			mark := generation.Mark{Identity: base.Identity}
			mark.Known.Raise(generation.Permanent, base.Generation+uint64(d.acknowledged))
			checkStoreCut(t, d.image(t, mode), filepath.Base(place), fmt.Sprintf("power cut after call %d, %s, %s", i, c.name, mode), 1+d.acknowledged, 1+sent, &mark)
		}
	}
	if d.acknowledged != bumps || cuts < bumps {
		t.Errorf("strace has seen %d answers, and %d disks were checked; want %d and at least as many", d.acknowledged, cuts, bumps)
	}
	t.Logf("%d disks of a power cut, %d answers, %d calls", cuts, d.acknowledged, len(calls))
}

// startDefined starts a TPM 2.0 with a number in its NV index.
func startDefined(t *testing.T, k keeping, place string) (*emulator, *channel) {
	t.Helper()
	e := start(t, k.at(v20, place))
	ch := e.power(t, v20)
	ch.define(t)
	return e, ch
}

// awaitAnswers waits until strace has seen so many answers of the TPM. It may be late, and of a
// process that has ended it would not see the end of the last answer.
func awaitAnswers(t *testing.T, trace string, answers int) {
	t.Helper()
	harness.Await(t, "the last answer in the trace", func() bool {
		var d etcdDisk
		for _, c := range succeeded(t, trace) {
			d.apply(c)
		}
		return d.acknowledged >= answers
	})
}

// checkStoreCut starts etcd with the data in dir and checks the number in the state.
func checkStoreCut(t *testing.T, dir, state, what string, least, most int, mark *generation.Mark) {
	t.Helper()
	member := etcdtest.Start(t, append(slices.Clone(etcdQuickly), "--data-dir="+dir)...)
	defer func() { member.Kill(); _ = os.RemoveAll(dir) }()
	pulled := filepath.Join(harness.TempDir(t), "state")
	if code, out, errs := runCmd(t, exec.Command(ours("swtpm"), "state", "pull", "--force", "--endpoint", member.URL, state, pulled)); code != 0 {
		t.Errorf("%s: the state cannot be read: %s%s", what, out, errs)
		return
	}
	content := harness.Read(t, filepath.Join(pulled, v20.file()))
	if err := generation.Check([]generation.Found{decodeItem(t, "permall", content)}, mark); err != nil {
		t.Errorf("%s: false alarm: %v", what, err)
	}
	e := start(t, setup{tpm: v20, state: pulled})
	if got := int(e.power(t, v20).number(t)); got < least || got > most {
		t.Errorf("%s: the number is %d, want %d to %d", what, got, least, most)
	}
	e.Kill(t)
}

// cutMode selects the bytes that were not synced and are on the disk after a power cut.
type cutMode string

const (
	onlySynced cutMode = "none"
	allWritten cutMode = "all"
	onlyLog    cutMode = "those of the log"
	onlyData   cutMode = "those of the database"
	torn       cutMode = "all but the second half of the last write"
	someWrites cutMode = "every second write of the database"
)

var cutModes = []cutMode{allWritten, onlyLog, onlyData, torn, someWrites, onlySynced}

// etcdDisk is the data directory of a member.
type etcdDisk struct {
	dir          string
	files        map[string]*etcdFile
	acknowledged int
}

// etcdFile is a file of etcd: what is on the disk for certain, and the writes since.
type etcdFile struct {
	size    int64  // of the file, with the zeros that follow
	synced  []byte // without zeros at the end
	pending []etcdWrite
	at      int64 // offset of the next write
}

// etcdWrite is a write, or without bytes a change of the size.
type etcdWrite struct {
	at int64
	b  []byte
}

// newEtcdDisk reads the data directory of a member that has ended.
func newEtcdDisk(t *testing.T, dir string) *etcdDisk {
	t.Helper()
	d := &etcdDisk{dir: dir, files: map[string]*etcdFile{}}
	for _, pattern := range []string{"member/snap/*", "member/wal/*.wal"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v, %v", pattern, names, err)
		}
		for _, name := range names {
			b := []byte(harness.Read(t, name))
			d.files[name] = &etcdFile{size: int64(len(b)), synced: bytes.Clone(bytes.TrimRight(b, "\x00"))}
		}
	}
	return d
}

// apply plays one call.
func (d *etcdDisk) apply(c tracedCall) {
	m := descriptor.FindStringSubmatch(c.args)
	if m == nil {
		return
	}
	// The TPM answers with sendto, or with sendmsg, for instance after a command that was refused.
	if strings.HasPrefix(c.name, "send") && strings.HasPrefix(plain(m[1]), "socket:") {
		rsp := parse(c.name, c.args, c.ret).bytes
		if strings.HasPrefix(rsp, "\x80") && len(rsp) >= 10 && int(binary.BigEndian.Uint32([]byte(rsp[2:]))) == len(rsp) && rsp[6:10] == "\x00\x00\x00\x00" {
			d.acknowledged++
		}
		return
	}
	if d.files[plain(m[1])] == nil {
		return
	}
	f := d.files[plain(m[1])]
	switch c.name {
	case "lseek":
		f.at, _ = strconv.ParseInt(strings.Fields(c.ret)[0], 10, 64)
	case "ftruncate":
		size, _ := strconv.ParseInt(c.args[strings.LastIndex(c.args, " ")+1:], 10, 64)
		f.pending = append(f.pending, etcdWrite{at: size})
	case "fsync", "fdatasync":
		f.synced, f.pending = f.content(f.pending), nil
	default:
		ev := parse(c.name, c.args, c.ret)
		w := etcdWrite{f.at, []byte(ev.bytes)}
		if c.name == "pwrite64" {
			w.at = int64(ev.off)
		} else {
			f.at += int64(len(w.b))
		}
		f.pending = append(f.pending, w)
	}
}

// content returns the file after these writes.
func (f *etcdFile) content(writes []etcdWrite) []byte {
	b := bytes.Clone(f.synced)
	for _, w := range writes {
		if w.b == nil {
			b = b[:min(int64(len(b)), w.at)]
			continue
		}
		if end := w.at + int64(len(w.b)); end > int64(len(b)) {
			b = append(b, make([]byte, end-int64(len(b)))...)
		}
		copy(b[w.at:], w.b)
	}
	return b
}

// survive returns the writes of a file that a power cut leaves.
func (m cutMode) survive(isLog bool, pending []etcdWrite) []etcdWrite {
	switch {
	case m == allWritten, m == onlyLog && isLog, m == onlyData && !isLog, m == someWrites && isLog:
		return pending
	case m == torn && len(pending) > 0:
		all := slices.Clone(pending)
		last := &all[len(all)-1]
		// A disk writes whole sectors.
		if half := (last.at+int64(len(last.b))/2)/512*512 - last.at; last.b != nil {
			last.b = last.b[:max(half, 0)]
		}
		return all
	case m == someWrites:
		var some []etcdWrite
		for i, w := range pending {
			if i%2 == 0 || w.b == nil {
				some = append(some, w)
			}
		}
		return some
	}
	return nil
}

// image writes the directory as a power cut may leave it.
func (d *etcdDisk) image(t *testing.T, mode cutMode) (dir string) {
	t.Helper()
	dir = filepath.Join(harness.TempDir(t), "etcd")
	for name, f := range d.files {
		rel, err := filepath.Rel(d.dir, name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, rel)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		b := f.content(mode.survive(strings.HasSuffix(name, ".wal"), f.pending))
		write(t, path, b)
		if err := os.Truncate(path, max(f.size, int64(len(b)))); err != nil { // the zeros, which take no space
			t.Fatal(err)
		}
	}
	return dir
}
