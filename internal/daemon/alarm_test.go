package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// TestAlarm checks that an alarm goes to the log and to the journal, with its fields, and that a guest
// cannot flood the journal.
func TestAlarm(t *testing.T) {
	l, err := OpenLog(LogOptions{Given: true, File: filepath.Join(t.TempDir(), "log"), FD: -1})
	if err != nil {
		t.Fatal(err)
	}
	var sent []map[string]string
	l.Describe(map[string]string{"tpm_version": "2.0"})
	if err := l.EnableAlarms(map[string]string{"state": "dir:///st"}); err != nil {
		t.Fatal(err)
	}
	l.alarms.send = func(message string, _ journal.Priority, fields map[string]string) error {
		fields["MESSAGE"] = message
		sent = append(sent, fields)
		return nil
	}
	const many = 3 * maxAlarms
	for i := range many {
		l.Alarm(EventKind{ID: "0123", Name: "policy-failed"}, "the cause", fmt.Sprintf("line %d", i))
	}
	l.alarms.put(journalEntry{text: "later"}, time.Now().Add(alarmPeriod))
	l.alarms.queue.close(context.Background())
	if len(sent) != maxAlarms+1 {
		t.Fatalf("%d entries in the journal, want %d", len(sent), maxAlarms+1)
	}
	for k, want := range map[string]string{
		"MESSAGE": "line 0", "MESSAGE_ID": "0123", "SWTPM_EVENT": "policy-failed", "SWTPM_CAUSE": "the cause", "SWTPM_TPM_VERSION": "2.0", "SWTPM_STATE": "dir:///st",
	} {
		if got := sent[0][k]; got != want {
			t.Errorf("%s = %q, want %q", k, got, want)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
