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
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// TestIsJournal checks that JOURNAL_STREAM is compared with device and inode of stderr.
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
		fmt.Sprintf("%d:", st.Dev):             false,
		fmt.Sprintf("%d:%d:", st.Dev, st.Ino):  false,
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
		l.setTarget(l.to.Load())
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
	l.setTarget(l.to.Load())
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

// TestPriority checks the journal's priority of each level.
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

// TestJournalSocket checks the entries that the program sends to the journal.
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
