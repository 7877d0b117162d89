package daemon

import (
	"fmt"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// lineFormatter makes swtpm's lines: the prefix, the message and, if the entry
// has one, the error behind a colon. There is neither time nor level: whoever
// reads stderr or the journal has both. The other fields are for the journal.
type lineFormatter struct {
	prefix string
	level  int
}

// Format returns the line of e; none if the message is indented by as many
// blanks as the level or more.
//
// Compat: swtpm marks the importance of a message by the blanks before it.
func (f *lineFormatter) Format(e *logrus.Entry) ([]byte, error) {
	if blanks := len(e.Message) - len(strings.TrimLeft(e.Message, " ")); blanks >= f.level {
		return nil, nil
	}
	return []byte(f.prefix + message(e) + "\n"), nil
}

// message returns the message of e with its error, in one line.
func message(e *logrus.Entry) string {
	s := e.Message
	if err, ok := e.Data[logrus.ErrorKey]; ok && err != nil {
		s = fmt.Sprintf("%s: %v", s, err)
	}
	return oneLine(s)
}

// journalFormatter sends entries to the journal with their fields and leaves
// nothing to write. If the journal does not take one, it becomes a line.
type journalFormatter struct {
	id    string // SYSLOG_IDENTIFIER
	send  func(message string, p journal.Priority, fields map[string]string) error
	lines *lineFormatter
}

// Format sends e; it returns a line only if that failed.
func (f *journalFormatter) Format(e *logrus.Entry) ([]byte, error) {
	line, err := f.lines.Format(e)
	if err != nil || line == nil {
		return nil, err
	}
	fields := map[string]string{"SYSLOG_IDENTIFIER": f.id}
	for k, v := range e.Data {
		fields[fieldName(k)] = fmt.Sprint(v)
	}
	if f.send(strings.TrimLeft(message(e), " "), priority(e.Level), fields) == nil {
		return nil, nil
	}
	return line, nil
}

// dump sends a dump as one entry and reports whether the journal took it.
func (f *journalFormatter) dump(title string, b []byte) bool {
	text := strings.TrimRight(hexDump("", title, b), "\n")
	fields := map[string]string{"SYSLOG_IDENTIFIER": f.id}
	return f.send(text, journal.PriDebug, fields) == nil
}

// fieldName turns the name of a logrus field into one that the journal takes:
// capitals, digits and underscores behind "SWTPM_".
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
	var dev, ino uint64
	var st unix.Stat_t
	if _, err := fmt.Sscanf(os.Getenv("JOURNAL_STREAM"), "%d:%d", &dev, &ino); err != nil {
		return false
	}
	return unix.Fstat(fd, &st) == nil && st.Dev == dev && st.Ino == ino
}
