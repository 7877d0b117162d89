package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

// TestLines checks how messages and dumps are written at each level.
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

// TestDumpLimits checks the limits of the size of a dump.
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

// TestLevels checks what each level logs.
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

// TestLogDefault checks that the log goes to stderr without --log and without a file.
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

// TestLogSilence checks that the file "-" discards everything.
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

// TestLogFile checks that a log file is appended to or truncated, its mode, and the errors.
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

// TestLogFD checks that a descriptor is preferred to a file, and that a closed one is an error.
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
	want := fmt.Sprintf("log: fd %d is not open for writing; let the program that starts this one open it for writing, or name a file", fd)
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

// TestOutputBroken checks that writing to a pipe without a reader is no error.
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
	if !o.closed {
		t.Error("a broken pipe is tried again")
	}
}
