package fleet

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/swtpm-go/swtpm/internal/program"
)

// Table returns the TPMs as lines for people, with a heading and a summary.
func Table(tpms []TPM, now time.Time) string {
	rows := [][]string{{"NAME", "VM", "LOCATION", "TPM", "STATE", "UP", "CLIENTS", "COMMANDS", "STORED", "GEN", "OWNER", "ENCRYPTION", "SANDBOX", "LIBTPMS", "LIBCRYPTO", "NOTE"}}
	for i := range tpms {
		rows = append(rows, tpms[i].row(now))
	}
	widths := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, r := range rows {
		var line strings.Builder
		for i, cell := range r {
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String() + summary(tpms) + "\n"
}

// summary counts the TPMs in a line.
func summary(tpms []TPM) string {
	states := map[string]int{}
	needed, unknown := 0, 0
	for _, t := range tpms {
		states[t.State]++
		switch t.Restart {
		case RestartNeeded:
			needed++
		case RestartUnknown:
			unknown++
		}
	}
	parts := []string{fmt.Sprintf("%d TPMs", len(tpms))}
	if len(tpms) == 1 {
		parts[0] = "1 TPM"
	}
	for _, state := range []string{stateRunning, stateStarting, stateStopped, stateFailed, stateUnproved} {
		if n := states[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	if needed > 0 {
		parts = append(parts, fmt.Sprintf("restart needed: %d (swtpm upgrade --all)", needed))
	}
	if unknown > 0 {
		parts = append(parts, fmt.Sprintf("restart unknown: %d", unknown))
	}
	return strings.Join(parts, ", ")
}

// row returns the cells of a TPM. It replaces unprintable characters, because others choose the
// names.
func (t *TPM) row(now time.Time) []string {
	up := ""
	if t.Started != nil {
		up = span(now.Sub(*t.Started))
	}
	stored := ""
	if t.Stored != nil {
		stored = span(now.Sub(*t.Stored)) + " ago"
	}
	if _, ok := t.inStore(); ok {
		stored = strings.TrimSuffix("in the store, "+stored, ", ")
	}
	cells := []string{t.Name, t.VM, t.shortLocation(), t.Version, t.State, up, number(t.Clients), number(t.Commands), stored,
		number(t.Generation), t.ownerCell(), t.Encryption, strings.ReplaceAll(t.Sandbox, ", ", "+"), t.library(t.Libtpms), t.library(t.Libcrypto), t.note()}
	for i := range cells {
		cells[i] = cmp.Or(program.PrintableLine(cells[i]), "-")
	}
	last := len(cells) - 1
	cells[last] = shorten(cells[last], maxNote)
	return cells
}

// maxNote is the largest number of characters of a note in the table. The JSON has the whole text.
const maxNote = 80

// shorten returns the first n characters of s; the last one shows that s is longer.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return strings.TrimRight(string([]rune(s)[:n-1]), " ") + "…"
}

// library returns the cell of a library: nothing for a TPM that is off.
func (t *TPM) library(l *loadedFile) string {
	if !t.hasStarted() {
		return ""
	}
	return l.summary()
}

// note returns what needs attention.
func (t *TPM) note() string {
	var notes []string
	switch t.Restart {
	case RestartNeeded:
		notes = append(notes, "restart needed: "+strings.Join(t.Reasons, ", "))
	case RestartUnknown:
		notes = append(notes, strings.Join(t.Reasons, ", "))
	}
	if t.State == stateUnproved {
		notes = []string{fmt.Sprintf("process %d of user %d calls itself swtpm", t.PID, t.UID)}
	}
	if t.halted() {
		notes = append([]string{fmt.Sprintf("stopped by a signal; kill -CONT %d continues it", t.PID)}, notes...)
	}
	if note := t.ownerNote(); note != "" {
		notes = append(notes, note)
	}
	if len(t.SameIdentity) > 0 {
		notes = append(notes, "a copy of "+strings.Join(t.SameIdentity, ", "))
	}
	if t.Verdict != "" {
		notes = append(notes, t.Verdict)
	}
	return strings.Join(notes, "; ")
}

// number returns a number that may be unknown.
func number[T int | uint64](n *T) string {
	if n == nil {
		return ""
	}
	return fmt.Sprint(*n)
}

// span returns a duration in its largest unit.
func span(d time.Duration) string {
	switch day := 24 * time.Hour; {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + "min"
	case d < 2*day:
		return strconv.Itoa(int(d/time.Hour)) + "h"
	default:
		return strconv.Itoa(int(d/day)) + "d"
	}
}
