package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/safefile"
)

// defaultPrefix precedes the lines of a log that was not configured.
const defaultPrefix = "swtpm: "

// maxControlDump is the number of bytes of a control request or reply that Dump shows.
const maxControlDump = 1024

// LogOptions configure where messages go and how many.
type LogOptions struct {
	Given    bool   // the user asked for a log; otherwise the other fields are ignored
	File     string // "-" discards messages, "" for none
	FD       int    // open for writing; has precedence over File; -1 for none
	Level    int    // 1 and below: messages; 2: traffic; 5 and above: libtpms, too
	Prefix   string // precedes every line
	Truncate bool   // empty File first
}

// Log is the log of the program: swtpm's line format, or fields if the lines go to the
// journal. Its methods may be called from several goroutines.
type Log struct {
	lines *logrus.Logger
	to    atomic.Pointer[target]

	mu     sync.Mutex
	fields map[string]string // of every entry of the journal
	alarms *alarms           // nil if no event goes to the journal next to the log
	debug  int               // what libtpms writes to; -1 until it is asked for
	relay  *relay            // of libtpms's lines; nil if it is not needed
	limit  *limiter          // of similar lines
}

// target is the destination of the lines of a Log.
type target struct {
	out    *output // nil: messages are discarded
	file   *os.File
	level  int
	prefix string
	queue  *journalQueue // nil if the lines do not go to the journal
}

// OpenLog opens the log that o describes; without o.Given it is stderr with the
// prefix "swtpm: ". With File and FD, File is created as well, but stays empty.
// The file is created with mode 0600 under the umask and appended to. OpenLog fails
// for a symbolic link, for a file with several names, and for an FD that is not open
// for writing.
func OpenLog(o LogOptions) (*Log, error) {
	t, err := openTarget(o)
	if err != nil {
		return nil, err
	}
	if isJournal(unix.Stderr) { // a reload may send the log there
		openJournal()
	}
	l := &Log{lines: logrus.New(), debug: -1}
	l.limit = newLimiter(func(text string) { l.to.Load().warn(text) })
	l.setTarget(t)
	return l, nil
}

// Debugf logs a line at level 2 and above.
func (l *Log) Debugf(format string, args ...any) { l.lines.Debugf(format, args...) }

// Infof logs a line.
func (l *Log) Infof(format string, args ...any) { l.lines.Infof(format, args...) }

// Warnf logs a line that the journal shows as a warning.
func (l *Log) Warnf(format string, args ...any) { l.lines.Warnf(format, args...) }

// Errorf logs a line that the journal shows as an error.
func (l *Log) Errorf(format string, args ...any) { l.lines.Errorf(format, args...) }

// openTarget opens the target that o describes.
func openTarget(o LogOptions) (*target, error) {
	if !o.Given {
		return newTarget(&output{fd: unix.Stderr, prefix: defaultPrefix}, nil, 1, defaultPrefix), nil
	}
	level := max(o.Level, 1) // Compat: C-276: level=0 means 1
	var file *os.File
	if o.File != "" && o.File != "-" {
		var err error
		if file, err = openLogFile(o.File, o.Truncate); err != nil {
			return nil, err
		}
	}
	fd := unix.Stderr
	switch {
	case o.FD >= 0:
		if err := checkWritable(o.FD); err != nil {
			if file != nil {
				file.Close()
			}
			return nil, err
		}
		fd = o.FD
	case o.File == "-":
		return newTarget(nil, nil, level, o.Prefix), nil
	case file != nil:
		fd = int(file.Fd())
	}
	return newTarget(&output{fd: fd, prefix: o.Prefix}, file, level, o.Prefix), nil
}

// openLogFile opens the log file at path and empties it if truncate is set. It may be
// a FIFO with a reader, or a terminal.
func openLogFile(path string, truncate bool) (*os.File, error) {
	flags := os.O_APPEND
	if truncate {
		flags |= os.O_TRUNC
	}
	f, err := safefile.OpenOutput(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return f, nil
}

// open calls open(2), and repeats the call if a signal interrupts it.
func open(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// checkWritable fails unless fd is open for writing.
func checkWritable(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("log: fd %d: %w", fd, err)
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		return fmt.Errorf("log: fd %d is not open for writing; let the program that starts this one open it for writing, or name a file", fd)
	}
	return nil
}

// openJournal opens the sockets for the journal, once, because the sandbox ends a process that
// opens a socket. journal.Enabled keeps one open, and opens another one at each call. The receipt has its own.
var openJournal = sync.OnceValue(func() *receipt {
	_ = journal.Enabled()
	return openReceipt(journalSocket)
})

// newTarget returns a target that writes to out, which may be nil.
func newTarget(out *output, file *os.File, level int, prefix string) *target {
	t := &target{out: out, file: file, level: level, prefix: prefix}
	if out != nil && isJournal(out.fd) {
		t.queue = (&journalQueue{send: journal.Send, receipt: openJournal(), id: identifier(prefix), prefix: prefix, lines: out}).start()
	}
	return t
}

// setTarget redirects the lines to t.
func (l *Log) setTarget(t *target) {
	l.to.Store(t)
	lines := &lineFormatter{prefix: t.prefix, level: t.level}
	if t.level < 2 { // traffic is never limited
		lines.limit = l.limit
	}
	switch {
	case t.out == nil:
		l.lines.SetLevel(logrus.PanicLevel)
		l.lines.SetOutput(io.Discard)
		return
	case t.queue != nil:
		l.lines.SetFormatter(&journalFormatter{queue: t.queue, lines: lines})
	default:
		l.lines.SetFormatter(lines)
	}
	l.lines.SetOutput(t.out)
	l.lines.SetLevel(threshold(t.level))
}

// threshold returns the least important level that is logged.
func threshold(level int) logrus.Level {
	switch {
	case level >= 5:
		return logrus.TraceLevel
	case level >= 2:
		return logrus.DebugLevel
	}
	return logrus.InfoLevel
}

// identifier returns the SYSLOG_IDENTIFIER: the prefix without its punctuation, or the
// name of the program.
func identifier(prefix string) string {
	if s := strings.TrimRight(prefix, ": "); s != "" {
		return s
	}
	return filepath.Base(os.Args[0])
}

// Close waits up to flushTime for the readers of the log and closes the file that OpenLog opened.
// Later messages are lost, or become lines on stderr if they were for the journal.
func (l *Log) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	return l.close(ctx)
}

// CloseFailed does the same as Close for a process that ends because of an error. It waits up to
// reasonTime until the journal has processed the last entry, because the journal finds the unit of a
// process only while that exists: systemctl status would not show the reason.
func (l *Log) CloseFailed() error {
	queue := l.to.Load().queue
	if queue == nil {
		return l.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), reasonTime)
	defer cancel()
	err := l.close(ctx)
	queue.receipt.wait(ctx)
	return err
}

func (l *Log) close(ctx context.Context) error {
	l.limit.flush()
	l.mu.Lock()
	if l.relay != nil {
		l.relay.close(ctx)
		l.relay = nil
	}
	a := l.alarms
	l.mu.Unlock()
	if a != nil {
		a.close(ctx)
	}
	return l.to.Load().close(ctx)
}

// close waits for the journal until ctx ends, and closes the file.
func (t *target) close(ctx context.Context) error {
	if t.queue != nil {
		t.queue.close(ctx)
	}
	if t.file == nil {
		return nil
	}
	t.out.end() // another goroutine may be about to write, and the descriptor number will be reused
	return t.file.Close()
}

// warn logs text unchanged and without the limit.
func (t *target) warn(text string) {
	switch {
	case t.queue != nil:
		t.queue.put(journalEntry{text: text, priority: journal.PriWarning})
	case t.out != nil:
		t.out.Write([]byte(t.prefix + text + "\n"))
	}
}

// Traffic reports whether commands, responses, requests and replies are dumped.
func (l *Log) Traffic() bool { return l.to.Load().traffic() }

func (t *target) traffic() bool { return t.out != nil && t.level >= 2 }

// LibtpmsLevel returns the level of libtpms's debug log, 0 for none.
func (l *Log) LibtpmsLevel() uint {
	t := l.to.Load()
	if t.out == nil || t.level < 5 {
		return 0
	}
	return uint(t.level - 4)
}

// LibtpmsPrefix returns what precedes each line of libtpms's debug log.
func (l *Log) LibtpmsPrefix() string { return l.to.Load().prefix + "    " }

// Dump logs b in hex if Traffic returns true:
//
//	PREFIX Ctrl Rsp: length 8
//	PREFIX 00 00 00 00 00 01 FF FF
//
// title is one of "Ctrl Cmd:", "Ctrl Rsp:", "Ctrl Rsp Continued:",
// "SWTPM_IO_Read:" and "SWTPM_IO_Write:", with or without a blank before it. A
// title that begins with "Ctrl" gets the first 1024 bytes of b and their count.
//
// Source: swtpm 0.7.1, a log at level 2.
func (l *Log) Dump(title string, b []byte) {
	t := l.to.Load()
	if !t.traffic() {
		return
	}
	title = strings.TrimLeft(title, " ")
	if strings.HasPrefix(title, "Ctrl") {
		b = b[:min(len(b), maxControlDump)]
	}
	if t.queue != nil {
		t.queue.dump(title, b)
		return
	}
	t.out.Write([]byte(hexDump(t.prefix, title, b)))
}

// hexDump returns the lines of Dump. Each byte is followed by a blank.
func hexDump(prefix, title string, b []byte) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s length %d\n", prefix, title, len(b))
	for ; len(b) > 0; b = b[min(len(b), 16):] {
		fmt.Fprintf(&s, "%s % X \n", prefix, b[:min(len(b), 16)])
	}
	return s.String()
}
