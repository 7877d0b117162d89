package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// fileLog returns a log that goes to a file, and a way to read it.
func fileLog(t *testing.T, o LogOptions) (*Log, func() string) {
	t.Helper()
	o.Given, o.FD, o.File = true, -1, filepath.Join(t.TempDir(), "log")
	l, err := OpenLog(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, func() string {
		b, err := os.ReadFile(o.File)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

func TestLines(t *testing.T) {
	cause := errors.New("no such file\nor so\n")
	for _, tt := range []struct {
		name  string
		level int
		say   func(l *Log)
		want  string
	}{
		{"message", 1, func(l *Log) { l.lines.Info("hello") }, "P: hello\n"},
		{"error", 1, func(l *Log) { l.lines.WithError(cause).Error("cannot open") }, "P: cannot open: no such file; or so\n"},
		{"other fields are for the journal", 1, func(l *Log) { l.lines.WithField("uri", "dir://x").Warn("slow") }, "P: slow\n"},
		{"one line", 1, func(l *Log) { l.lines.Info("a\nb\n") }, "P: a; b\n"},
		{"level 0 is level 1", 0, func(l *Log) { l.lines.Info("hello"); l.lines.Debug("no"); l.lines.Info(" no") }, "P: hello\n"},
		{"indented by less than the level", 3, func(l *Log) { l.lines.Info("  yes"); l.lines.Info("   no"); l.lines.Debug("yes") }, "P:   yes\nP: yes\n"},
		{"trace from 5", 5, func(l *Log) { l.lines.Trace("yes") }, "P: yes\n"},
		{"no trace at 4", 4, func(l *Log) { l.lines.Trace("no") }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, read := fileLog(t, LogOptions{Level: tt.level, Prefix: "P: "})
			tt.say(l)
			if got := read(); got != tt.want {
				t.Errorf("log is %q, want %q", got, tt.want)
			}
		})
	}
}

// TestDump checks the lines of swtpm 0.7.1 with --log level=2,prefix=PP.
func TestDump(t *testing.T) {
	l, read := fileLog(t, LogOptions{Level: 2, Prefix: "PP"})
	l.Dump(" Ctrl Cmd:", []byte{0, 0, 0, 1})
	l.Dump("SWTPM_IO_Read:", append([]byte("0123456789abcdef"), 0xFF))
	l.Dump("SWTPM_IO_Write:", nil)
	want := "PP Ctrl Cmd: length 4\n" +
		"PP 00 00 00 01 \n" +
		"PP SWTPM_IO_Read: length 17\n" +
		"PP 30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66 \n" +
		"PP FF \n" +
		"PP SWTPM_IO_Write: length 0\n"
	if got := read(); got != want {
		t.Errorf("dump is\n%s\nwant\n%s", got, want)
	}
}

func TestDumpLimits(t *testing.T) {
	l, read := fileLog(t, LogOptions{Level: 2})
	l.Dump(" Ctrl Rsp Continued:", make([]byte, 3000))
	if got := read(); !strings.HasPrefix(got, " Ctrl Rsp Continued: length 1024\n") || strings.Count(got, "00") != 1024 {
		t.Errorf("a control dump has %d bytes:\n%.80s", strings.Count(got, "00"), got)
	}
	l, read = fileLog(t, LogOptions{Level: 2})
	l.Dump(" SWTPM_IO_Read:", make([]byte, 3001))
	if got := read(); !strings.HasPrefix(got, " SWTPM_IO_Read: length 3001\n") || strings.Count(got, " 00") != 3001 {
		t.Errorf("a data dump has %d bytes:\n%.80s", strings.Count(got, " 00"), got)
	}
	l, read = fileLog(t, LogOptions{Level: 1})
	l.Dump(" SWTPM_IO_Read:", make([]byte, 3))
	if got := read(); got != "" {
		t.Errorf("a dump at level 1: %q, want none", got)
	}
}

func TestLevels(t *testing.T) {
	for level, want := range map[int]string{0: "false 0", 1: "false 0", 2: "true 0", 4: "true 0", 5: "true 1", 20: "true 16"} {
		l, _ := fileLog(t, LogOptions{Level: level, Prefix: "p"})
		if got := fmt.Sprint(l.Traffic(), l.LibtpmsLevel()); got != want {
			t.Errorf("level %d: Traffic and LibtpmsLevel are %s, want %s", level, got, want)
		}
		if l.FD() < 3 || l.LibtpmsPrefix() != "p    " {
			t.Errorf("FD is %d, LibtpmsPrefix %q", l.FD(), l.LibtpmsPrefix())
		}
	}
}

func TestLogDefault(t *testing.T) {
	l, err := OpenLog(LogOptions{Level: 20, Prefix: "not asked for", File: "-"})
	if err != nil || l.to.Load().out.fd != unix.Stderr || l.Traffic() || l.to.Load().prefix != "swtpm: " {
		t.Errorf("log without --log: fd %d, traffic %v, prefix %q, %v", l.FD(), l.Traffic(), l.to.Load().prefix, err)
	}
	l, err = OpenLog(LogOptions{Given: true, FD: -1})
	if err != nil || l.to.Load().out.fd != unix.Stderr || l.to.Load().prefix != "" {
		t.Errorf("log with --log alone: fd %d, prefix %q, %v", l.FD(), l.to.Load().prefix, err)
	}
}

func TestLogSilence(t *testing.T) {
	l, err := OpenLog(LogOptions{Given: true, File: "-", FD: -1, Level: 20})
	if err != nil {
		t.Fatal(err)
	}
	l.lines.Error("discarded")
	l.Dump("Ctrl Cmd:", []byte{1})
	say(t, l.FD(), "nor this\n")
	if l.Traffic() || l.LibtpmsLevel() != 0 || l.lines.IsLevelEnabled(logrus.ErrorLevel) {
		t.Errorf("silence: traffic %v, libtpms %d", l.Traffic(), l.LibtpmsLevel())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestLogFile(t *testing.T) {
	old := unix.Umask(0o022)
	defer unix.Umask(old)
	dir := t.TempDir()
	name := filepath.Join(dir, "log")
	for _, tt := range []struct {
		truncate bool
		want     string
	}{{false, "x\n"}, {false, "x\nx\n"}, {true, "x\n"}} {
		l, err := OpenLog(LogOptions{Given: true, File: name, FD: -1, Truncate: tt.truncate})
		if err != nil {
			t.Fatal(err)
		}
		l.lines.Info("x")
		l.Close()
		if got, _ := os.ReadFile(name); string(got) != tt.want {
			t.Errorf("file is %q, want %q", got, tt.want)
		}
	}
	if st, err := os.Stat(name); err != nil || st.Mode() != 0o600 {
		t.Errorf("file: %v, %v, want mode 0600", st, err)
	}
	link, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.Symlink(name, link), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		link:                        "log: open " + link + ": symbolic link; name the file itself",
		fifo:                        "log: open " + fifo + ": no such device or address",
		filepath.Join(dir, "a/log"): "log: open " + dir + "/a/log" + `: no such file or directory`,
	} {
		if _, err := OpenLog(LogOptions{Given: true, File: path, FD: -1}); err == nil || err.Error() != want {
			t.Errorf("OpenLog(%s) = %v, want %s", path, err, want)
		}
	}
}

func TestLogFD(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	file := filepath.Join(dir, "file")
	l, err := OpenLog(LogOptions{Given: true, File: file, FD: int(f.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	l.lines.Info("x")
	if got, _ := os.ReadFile(f.Name()); string(got) != "x\n" {
		t.Errorf("fd has %q, want x", got)
	}
	if got, err := os.ReadFile(file); err != nil || len(got) != 0 {
		t.Errorf("file has %q, %v, want it there and empty", got, err)
	}
	l.Close()
	if _, err := f.WriteString("still open"); err != nil {
		t.Errorf("Close closed a descriptor that is not ours: %v", err)
	}

	ro, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	fd := int(ro.Fd())
	want := fmt.Sprintf("log: fd %d is not open for writing", fd)
	if _, err := OpenLog(LogOptions{Given: true, FD: fd}); err == nil || err.Error() != want {
		t.Errorf("OpenLog of a read-only fd = %v, want %s", err, want)
	}
	ro.Close()
	if _, err := OpenLog(LogOptions{Given: true, FD: 1 << 20}); !errors.Is(err, unix.EBADF) {
		t.Errorf("OpenLog of a closed fd = %v, want %v", err, unix.EBADF)
	}
}

// TestOutputRecovers checks that a reader that continues gets the number of lost messages,
// and every message after that.
func TestOutputRecovers(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	o := &output{fd: int(w.Fd()), prefix: "P: "}
	line := []byte(strings.Repeat("x", 999) + "\n")
	for range 500 {
		if n, err := o.Write(line); n != len(line) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	lost := o.lost
	kept := make([]byte, 1<<20)
	n, err := r.Read(kept)
	if err != nil || lost == 0 || n/len(line)+lost != 500 {
		t.Fatalf("%d bytes kept, %d messages lost, %v, want 500 messages altogether", n, lost, err)
	}
	o.Write([]byte("hello\n"))
	n, err = r.Read(kept)
	want := fmt.Sprintf("P: %d log messages lost: the reader of the log was too slow\nhello\n", lost)
	if got := strings.TrimLeft(string(kept[:n]), "x\n"); got != want || err != nil {
		t.Errorf("afterwards came %q, %v, want %q", got, err, want)
	}
}

func TestOutputBroken(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	o := &output{fd: int(w.Fd())}
	for range 2 {
		if n, err := o.Write([]byte("x")); n != 1 || err != nil {
			t.Errorf("Write to a broken pipe = %d, %v, want 1, nil", n, err)
		}
	}
	if !o.gone {
		t.Error("a broken pipe is tried again")
	}
}

func TestIsJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	for stream, want := range map[string]bool{
		fmt.Sprintf("%d:%d", st.Dev, st.Ino):   true,
		fmt.Sprintf("%d:%d", st.Dev, st.Ino+1): false,
		fmt.Sprintf("%d:%d", st.Dev+1, st.Ino): false,
		"":                                     false,
		"x:y":                                  false,
	} {
		t.Setenv("JOURNAL_STREAM", stream)
		if got := isJournal(int(f.Fd())); got != want {
			t.Errorf("isJournal with JOURNAL_STREAM=%s = %v, want %v", stream, got, want)
		}
		l, err := OpenLog(LogOptions{Given: true, FD: int(f.Fd())})
		if err != nil {
			t.Fatal(err)
		}
		if _, got := l.lines.Formatter.(*journalFormatter); got != want {
			t.Errorf("OpenLog with JOURNAL_STREAM=%s takes the journal: %v, want %v", stream, got, want)
		}
	}
}

// TestJournalFields checks the fields in the journal, and that entries become lines if the
// journal refuses them.
func TestJournalFields(t *testing.T) {
	for _, down := range []bool{false, true} {
		var sent []string
		l, read := fileLog(t, LogOptions{Level: 2, Prefix: "vm1: "})
		q := (&journalQueue{
			id:     identifier(l.to.Load().prefix),
			prefix: l.to.Load().prefix,
			lines:  l.to.Load().out,
			send: func(m string, p journal.Priority, f map[string]string) error {
				if down {
					return errors.New("journal is down")
				}
				sent = append(sent, fmt.Sprintf("%d %s %v", p, m, f))
				return nil
			},
		}).start()
		l.to.Load().queue = q
		l.turn(l.to.Load())
		l.lines.WithError(errors.New("disk full")).WithField("state-uri", "dir://x").Error("cannot store")
		l.lines.Info("   too deep")
		l.lines.Info(" indented")
		l.Dump("Ctrl Cmd:", []byte{1})
		q.close(t.Context())
		got, want := fmt.Sprintf("%q", sent), fmt.Sprintf("%q", []string{
			"3 cannot store: disk full map[SWTPM_ERROR:disk full SWTPM_STATE_URI:dir://x SYSLOG_IDENTIFIER:vm1]",
			"6 indented map[SYSLOG_IDENTIFIER:vm1]",
			"7  Ctrl Cmd: length 1\n 01  map[SYSLOG_IDENTIFIER:vm1]",
		})
		lines := ""
		if down {
			want, lines = "[]", "vm1: cannot store: disk full\nvm1:  indented\nvm1:  Ctrl Cmd: length 1\nvm1:  01 \n"
		}
		if got != want || read() != lines {
			t.Errorf("down %v: the journal got\n%s\nand the file %q, want\n%s\nand %q", down, got, read(), want, lines)
		}
	}
}

// TestEvent checks the fields of an event, and that a log of lines has only failures.
func TestEvent(t *testing.T) {
	l, read := fileLog(t, LogOptions{Level: 1, Prefix: "vm1: "})
	logEvents := func() {
		l.Describe(map[string]string{"instance": "vm7"})
		l.Event(EventKind{ID: "0011", Name: "ready"}, false, "none", "it is ready")
		l.Event(EventKind{ID: "2233", Name: "broken"}, true, "rust", "it broke")
	}
	logEvents()
	if got, want := read(), "vm1: it broke\n"; got != want {
		t.Errorf("a log of lines has %q, want %q", got, want)
	}
	var sent []string
	l.to.Load().queue = (&journalQueue{send: func(m string, p journal.Priority, f map[string]string) error {
		sent = append(sent, fmt.Sprintf("%d %s %v", p, m, f))
		return nil
	}, id: "swtpm", lines: l.to.Load().out}).start()
	l.turn(l.to.Load())
	logEvents()
	l.to.Load().queue.close(t.Context())
	want := []string{
		"6 it is ready map[MESSAGE_ID:0011 SWTPM_CAUSE:none SWTPM_EVENT:ready SWTPM_INSTANCE:vm7 SYSLOG_IDENTIFIER:swtpm]",
		"3 it broke map[MESSAGE_ID:2233 SWTPM_CAUSE:rust SWTPM_EVENT:broken SWTPM_INSTANCE:vm7 SYSLOG_IDENTIFIER:swtpm]",
	}
	if !slices.Equal(sent, want) {
		t.Errorf("the journal got\n%q\nwant\n%q", sent, want)
	}
}

func TestPriority(t *testing.T) {
	for l, want := range map[logrus.Level]journal.Priority{
		logrus.FatalLevel: journal.PriCrit, logrus.ErrorLevel: journal.PriErr, logrus.WarnLevel: journal.PriWarning,
		logrus.InfoLevel: journal.PriInfo, logrus.DebugLevel: journal.PriDebug, logrus.TraceLevel: journal.PriDebug,
	} {
		if got := priority(l); got != want {
			t.Errorf("priority(%v) = %d, want %d", l, got, want)
		}
	}
}

// journalProgram builds a program whose journal is a socket of ours, and returns
// how to run it, the socket and the program's stderr.
func journalProgram(t *testing.T, args ...string) (cmd *exec.Cmd, fd int, stderr *os.File) {
	t.Helper()
	gobin, err := exec.LookPath("go")
	if err != nil {
		t.Skip("needs the go command to build a program with another journal:", err)
	}
	dir := t.TempDir()
	socket, prog := filepath.Join(dir, "journal"), filepath.Join(dir, "prog")
	build := exec.Command(gobin, "build", "-o", prog,
		"-ldflags=-X github.com/coreos/go-systemd/v22/journal.journalSocket="+socket, "./testdata/journal")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		t.Fatal(err)
	}
	stderr, err = os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stderr.Close() })
	var st unix.Stat_t
	if err := unix.Fstat(int(stderr.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), prog, args...)
	cmd.Stderr = stderr
	cmd.Env = append(os.Environ(), fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino))
	return cmd, fd, stderr
}

// TestJournalUnread checks that a journal that is not read blocks neither the callers of
// the log nor the end of the program. Without the queue the program never ends.
func TestJournalUnread(t *testing.T) {
	cmd, fd, _ := journalProgram(t, "5000")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
	if err != nil || !bytes.Contains(b[:n], []byte("MESSAGE=message 0\n")) {
		t.Errorf("the journal got %q, %v, want message 0 first", b[:n], err)
	}
}

// TestJournalQueue checks the order of queued entries, and that a loss is reported at its
// position.
func TestJournalQueue(t *testing.T) {
	var sent []string
	goOn, taken := make(chan struct{}), make(chan struct{}, 2000)
	lines, err := os.Create(filepath.Join(t.TempDir(), "lines"))
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	q := (&journalQueue{prefix: "P: ", lines: &output{fd: int(lines.Fd())}, send: func(m string, _ journal.Priority, _ map[string]string) error {
		taken <- struct{}{}
		<-goOn
		sent = append(sent, m)
		return nil
	}}).start()
	q.put(journalEntry{text: "first"})
	<-taken // it is no longer in the queue
	var want []string
	for i := range maxQueue + 7 {
		q.put(journalEntry{text: fmt.Sprint(i)})
		if i < maxQueue {
			want = append(want, fmt.Sprint(i))
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	goOn <- struct{}{}
	<-taken // a place is free
	q.put(journalEntry{text: "after"})
	q.put(journalEntry{text: "lost again"})
	q.close(ended) // does not wait
	q.put(journalEntry{text: "too late"})
	close(goOn)
	q.close(t.Context())
	want = append(append([]string{"first"}, want...), lostNote(7), "after", lostNote(1))
	if !slices.Equal(sent, want) {
		t.Errorf("the journal got\n%q\nwant\n%q", sent, want)
	}
	if b, err := os.ReadFile(lines.Name()); string(b) != "P: too late\n" {
		t.Errorf("the lines got %q, %v, want what came too late", b, err)
	}
}

// TestJournalSocket reads what the program sends to the journal.
func TestJournalSocket(t *testing.T) {
	cmd, fd, stderr := journalProgram(t)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
	if err != nil {
		t.Fatal("the journal got nothing:", err)
	}
	for _, want := range []string{"PRIORITY=4\n", "MESSAGE=hello: cause\n", "SYSLOG_IDENTIFIER=swtpm\n", "SWTPM_EVENT=test\n", "SWTPM_CAUSE=value\n"} {
		if !bytes.Contains(b[:n], []byte(want)) {
			t.Errorf("the journal got %q, want %q in it", b[:n], want)
		}
	}
	if st, err := stderr.Stat(); err != nil || st.Size() != 0 {
		t.Errorf("stderr: %v, %v, want nothing in it", st, err)
	}
}
