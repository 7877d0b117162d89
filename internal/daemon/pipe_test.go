package daemon

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

// pipeLog returns a log whose lines go into a pipe, and the pipe's ends.
func pipeLog(t *testing.T) (l *Log, r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	if l, err = OpenLog(LogOptions{Given: true, FD: int(w.Fd()), Level: 5, Prefix: "P: "}); err != nil {
		t.Fatal(err)
	}
	return l, r, w
}

// say writes to the log as libtpms does: blocking, whole.
func say(t *testing.T, fd int, s string) {
	t.Helper()
	for b := []byte(s); len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
		b = b[max(n, 0):]
	}
}

// TestRelayUnread checks that neither libtpms nor Close waits for the reader of the log.
// Without the relay the first write beyond the pipe's size blocks.
func TestRelayUnread(t *testing.T) {
	l, r, _ := pipeLog(t)
	fd := l.FD()
	if fd != l.FD() {
		t.Fatalf("FD() = %d, %d, want one pipe of our own", fd, l.FD())
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the pipe survives exec (flags %#x, %v)", flags, err)
	}
	line := strings.Repeat("x", 98) + "\n"
	for range 5000 {
		say(t, fd, line)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	say(t, fd, "discarded\n") // the descriptor leads to /dev/null
	b := make([]byte, 4*len(line))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != strings.Repeat(line, 4) {
		t.Errorf("the reader got %q, %v", b, err)
	}
}

// TestRelayLines checks that libtpms's lines are not mixed with ours, and that Close
// forwards the last ones.
func TestRelayLines(t *testing.T) {
	l, r, w := pipeLog(t)
	fd := l.FD()
	for i := range 50 {
		say(t, fd, "P:     lib")
		l.lines.Info("ours")
		say(t, fd, fmt.Sprintf("tpms %d\n", i))
	}
	say(t, fd, strings.Repeat("y", 5000)+"\nlast, without a newline")
	relay := l.relay
	l.Close()
	<-relay.done // on a slow machine Close does not wait for long enough
	w.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]string, 0, 60)
	for i := range 50 {
		want = append(want, fmt.Sprintf("P:     libtpms %d", i))
	}
	want = append(want, strings.Repeat("y", maxLine), strings.Repeat("y", 5000-maxLine), "last, without a newline")
	got := slices.DeleteFunc(strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"), func(s string) bool { return s == "P: ours" })
	if !slices.Equal(got, want) {
		t.Errorf("the reader got\n%q\nwant\n%q", got, want)
	}
}

// TestRelayOnlyIfNeeded checks that a log that never blocks has no relay.
func TestRelayOnlyIfNeeded(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "log"), os.DevNull} {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		l, err := OpenLog(LogOptions{Given: true, FD: int(f.Fd())})
		if err != nil || l.FD() < 3 || l.relay != nil {
			t.Errorf("%s: FD() = %d, %v, relay %v, want no relay", name, l.FD(), err, l.relay)
		}
	}
}

// TestRelayJournal checks that the journal gets libtpms's lines as entries.
func TestRelayJournal(t *testing.T) {
	l, r, w := pipeLog(t)
	var sent []string
	l.to.Load().queue = (&journalQueue{lines: l.to.Load().out, send: func(m string, p journal.Priority, _ map[string]string) error {
		sent = append(sent, fmt.Sprintf("%d %s", p, m))
		return nil
	}}).start()
	var want []string
	fd := l.FD()
	for i := range 2 * maxQueue {
		say(t, fd, fmt.Sprintf("%slibtpms %d\n\n", l.LibtpmsPrefix(), i))
		want = append(want, fmt.Sprintf("7 libtpms %d", i))
	}
	l.relay.close(t.Context())
	l.Close()
	<-l.to.Load().queue.done // on a slow machine Close does not wait for long enough
	w.Close()
	if b, err := io.ReadAll(r); len(b) != 0 || err != nil {
		t.Errorf("the pipe got %q, %v, want nothing", b, err)
	}
	if !slices.Equal(sent, want) {
		t.Errorf("the journal got\n%q\nwant\n%q", sent, want)
	}
}
