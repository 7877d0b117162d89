package daemon

import "github.com/sirupsen/logrus"

// messageID is the journal's field for the kind of an entry. It is the only field of ours
// without a prefix.
const messageID = "MESSAGE_ID"

// EventKind is a kind of event in the life of a service.
type EventKind struct {
	ID   string // 128 bits in hex, random and never changed: MESSAGE_ID
	Name string // SWTPM_EVENT
}

// Describe sets fields of every entry in the journal, such as the service's identity. Their
// names get the prefix "SWTPM_". Other logs have no fields.
func (l *Log) Describe(fields map[string]string) {
	named := make(map[string]string, len(fields))
	for k, v := range fields {
		named[fieldName(k)] = v
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fields = named
	if q := l.to.Load().queue; q != nil {
		q.common.Store(&named)
	}
}

// Event logs an event to the journal, with its cause as a field. Other logs have lines for
// failures only, because swtpm's log has no others and scripts read it.
func (l *Log) Event(k EventKind, wrong bool, cause, line string) {
	level := logrus.InfoLevel
	switch {
	case wrong:
		level = logrus.ErrorLevel
	case l.to.Load().queue == nil:
		return
	}
	l.event(level, k, cause, line)
}

// Notice writes an event to every log, as a warning: it ends a condition that an earlier
// line reported.
func (l *Log) Notice(k EventKind, cause, line string) { l.event(logrus.WarnLevel, k, cause, line) }

func (l *Log) event(level logrus.Level, k EventKind, cause, line string) {
	l.lines.WithFields(logrus.Fields{messageID: k.ID, "event": k.Name, "cause": cause}).Log(level, line)
}
