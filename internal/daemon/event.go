package daemon

import "github.com/sirupsen/logrus"

// messageID is the field by which the journal knows a kind of entry; it is the one
// field of ours without a prefix.
const messageID = "MESSAGE_ID"

// EventKind is a kind of event in the life of a service.
type EventKind struct {
	ID   string // 128 bits in hex, made by chance and never changed: MESSAGE_ID
	Name string // SWTPM_EVENT
}

// Describe sets fields that every entry of the journal gets, as who this service
// is; their names get "SWTPM_" before them. Other logs have no fields.
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

// Event tells the journal of an event, with its cause as a field. Other logs have
// lines for what goes wrong only: swtpm's have no others, and scripts read them.
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

// Notice writes an event to every log, as a warning: it ends what an earlier line has
// reported.
func (l *Log) Notice(k EventKind, cause, line string) { l.event(logrus.WarnLevel, k, cause, line) }

func (l *Log) event(level logrus.Level, k EventKind, cause, line string) {
	l.lines.WithFields(logrus.Fields{messageID: k.ID, "event": k.Name, "cause": cause}).Log(level, line)
}
