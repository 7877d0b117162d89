package daemon

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/program"
)

// lineFormatter makes swtpm's lines: the prefix, the message and, if the entry has one, a
// colon and the error. Time and level are left out because the journal adds both. The other
// fields are for the journal.
type lineFormatter struct {
	prefix string
	level  int
	limit  *limiter // nil for none
}

// Format returns the line of e, preceded by a line with the number of similar lines that
// the limit suppressed.
func (f *lineFormatter) Format(e *logrus.Entry) ([]byte, error) {
	text, before, ok := f.text(e)
	switch {
	case !ok:
		return nil, nil
	case before != "":
		return []byte(f.prefix + before + "\n" + f.prefix + text + "\n"), nil
	}
	return []byte(f.prefix + text + "\n"), nil
}

// text returns the message of e. ok is false if the message is indented by as many blanks
// as the level or more, or is above the limit. before is the line that precedes it.
//
// Compat: C-275: swtpm marks the importance of a message by the blanks before it.
func (f *lineFormatter) text(e *logrus.Entry) (text, before string, ok bool) {
	if blanks := len(e.Message) - len(strings.TrimLeft(e.Message, " ")); blanks >= f.level {
		return "", "", false
	}
	text, ok = message(e), true
	if f.limit != nil {
		before, ok = f.limit.admit(e.Level, text)
	}
	return text, before, ok
}

// message returns the message of e with its error, in one line.
func message(e *logrus.Entry) string {
	s := e.Message
	if err, ok := e.Data[logrus.ErrorKey]; ok && err != nil {
		s = fmt.Sprintf("%s: %v", s, err)
	}
	return program.PrintableLine(s)
}

// journalFormatter queues entries for the journal with their fields and returns nothing to
// write.
type journalFormatter struct {
	queue *journalQueue
	lines *lineFormatter
}

// Format queues e if it has a line.
func (f *journalFormatter) Format(e *logrus.Entry) ([]byte, error) {
	text, before, ok := f.lines.text(e)
	if !ok {
		return nil, nil
	}
	if before != "" {
		f.queue.put(journalEntry{text: before, priority: journal.PriWarning})
	}
	fields := make(map[string]string, len(e.Data))
	for k, v := range e.Data {
		if k != messageID {
			k = fieldName(k)
		}
		fields[k] = program.PrintableLine(fmt.Sprint(v))
	}
	f.queue.put(journalEntry{
		text:     text,
		indent:   len(text) - len(strings.TrimLeft(text, " ")),
		priority: priority(e.Level),
		fields:   fields,
	})
	return nil, nil
}

// dump queues a dump as one entry.
func (q *journalQueue) dump(title string, b []byte) {
	text := strings.TrimRight(hexDump("", title, b), "\n")
	q.put(journalEntry{text: text, priority: journal.PriDebug})
}

// fieldName turns the name of a logrus field into one that the journal takes:
// capitals, digits and underscores, with the prefix "SWTPM_".
func fieldName(k string) string {
	return "SWTPM_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, k)
}

// priority translates the importance of an entry.
func priority(l logrus.Level) journal.Priority {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel:
		return journal.PriCrit
	case logrus.ErrorLevel:
		return journal.PriErr
	case logrus.WarnLevel:
		return journal.PriWarning
	case logrus.InfoLevel:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// isJournal reports whether fd is the stream that systemd connected to the
// journal.
//
// Source: systemd.exec(5), $JOURNAL_STREAM: device and inode in decimal.
func isJournal(fd int) bool {
	dev, ino, _ := strings.Cut(os.Getenv("JOURNAL_STREAM"), ":")
	d, err := strconv.ParseUint(dev, 10, 64)
	if err != nil {
		return false
	}
	i, err := strconv.ParseUint(ino, 10, 64)
	var st unix.Stat_t
	return err == nil && unix.Fstat(fd, &st) == nil && st.Dev == d && st.Ino == i
}
