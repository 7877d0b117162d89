package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// limitTest is a limiter with a clock that the test sets.
type limitTest struct {
	*limiter
	clock time.Time
	later []func()
	notes []string
}

func newLimitTest() *limitTest {
	l := &limitTest{clock: time.Unix(1e9, 0)}
	l.limiter = newLimiter(func(s string) { l.notes = append(l.notes, s) })
	l.now = func() time.Time { return l.clock }
	l.wake = func(_ time.Duration, f func()) { l.later = append(l.later, f) }
	return l
}

// say logs a line n times and returns how many were admitted.
func (l *limitTest) say(n int, format string, args ...any) (admitted int) {
	for range n {
		if before, ok := l.admit(logrus.ErrorLevel, fmt.Sprintf(format, args...)); ok {
			admitted++
			if before != "" {
				l.notes = append(l.notes, before)
			}
		}
	}
	return admitted
}

// TestLimitOfOneKind checks that lines of one kind are limited after the burst, that other kinds
// are not, and that the burst is available again after an hour.
func TestLimitOfOneKind(t *testing.T) {
	l := newLimitTest()
	for i := range 1000 {
		got := l.say(1, "request 0x%08x from client %d: unknown, %q", i*7919, i, fmt.Sprint("text ", i))
		if want := i < limitBurst; (got == 1) != want {
			t.Fatalf("line %d: admitted %d", i, got)
		}
	}
	if got := l.say(1, "could not store permall: no space left on device"); got != 1 {
		t.Error("another kind of line is suppressed by the flood")
	}
	if got := l.say(1, "request from client: another text"); got != 1 {
		t.Error("a line with other words is suppressed by the flood")
	}
	if len(l.later) != 1 || len(l.notes) != 0 {
		t.Fatalf("%d timers, notes %q; want one timer and none", len(l.later), l.notes)
	}
	l.later[0]()
	if len(l.notes) != 1 || !strings.HasPrefix(l.notes[0], "980 similar lines suppressed: request 0x") {
		t.Errorf("notes %q", l.notes)
	}
	l.flush()
	if len(l.notes) != 1 {
		t.Errorf("counted twice: %q", l.notes)
	}
	l.notes = nil
	l.say(5, "request 0x1 from client 1: unknown, %q", "")
	if len(l.later) != 2 {
		t.Errorf("%d timers, want one more", len(l.later))
	}
	l.clock = l.clock.Add(limitEvery)
	if got := l.say(2, "request 0x1 from client 1: unknown, %q", `a "quoted" \ text`); got != 1 {
		t.Errorf("after %v: %d lines, want 1", limitEvery, got)
	}
	if len(l.notes) != 1 || !strings.HasPrefix(l.notes[0], "5 similar") {
		t.Errorf("notes %q, want that of 5 lines before the next", l.notes)
	}
	l.clock = l.clock.Add(time.Hour)
	if got := l.say(100, "request 0x1 from client 1: unknown, %q", ""); got != limitBurst {
		t.Errorf("after an hour: %d lines, want %d", got, limitBurst)
	}
}

// letters returns a word for n without digits.
func letters(n int) string {
	return strings.Map(func(r rune) rune { return r - '0' + 'a' }, fmt.Sprintf("%05d", n))
}

// TestLimitOfKinds checks that a client that causes lines of ever new kinds fills neither
// memory nor the log.
func TestLimitOfKinds(t *testing.T) {
	l := newLimitTest()
	l.say(limitBurst+5, "the first kind")
	admitted := 0
	for i := range 5000 {
		admitted += l.say(1, "kind %s", letters(i))
	}
	if len(l.kinds) != limitKinds || admitted > limitKinds+limitBurst {
		t.Errorf("%d kinds, %d lines; want %d and at most %d", len(l.kinds), admitted, limitKinds, limitKinds+limitBurst)
	}
	l.later[0]()
	if len(l.notes) != 2 {
		t.Errorf("notes %q, want one for the first kind and one for the rest", l.notes)
	}
	l.clock = l.clock.Add(time.Hour)
	if got := l.say(limitBurst+5, "a kind that comes later"); got != limitBurst || len(l.kinds) != limitKinds {
		t.Errorf("%d lines, %d kinds; want %d and %d", got, len(l.kinds), limitBurst, limitKinds)
	}
}

// TestLogLimit checks the file: the suppressed lines are counted at the end, and a log at
// level 2 has every line.
func TestLogLimit(t *testing.T) {
	for _, c := range []struct {
		level, lines int
		last         string
	}{
		{1, limitBurst + 1, "p280 similar lines suppressed: request 299: refused"},
		{2, 300, "prequest 299: refused"},
	} {
		path := filepath.Join(t.TempDir(), "log")
		l, err := OpenLog(LogOptions{Given: true, File: path, FD: -1, Level: c.level, Prefix: "p"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 300 {
			l.lines.WithError(errors.New("refused")).Errorf("request %d", i)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		if got := lines[len(lines)-1]; len(lines) != c.lines || got != c.last {
			t.Errorf("level %d: %d lines, the last %q; want %d, %q", c.level, len(lines), got, c.lines, c.last)
		}
	}
}

// TestLogIsPrintable checks that text chosen by a client or guest reaches neither a terminal
// nor the journal unescaped.
func TestLogIsPrintable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := OpenLog(LogOptions{Given: true, File: path, FD: -1, Level: 1})
	if err != nil {
		t.Fatal(err)
	}
	l.lines.WithError(errors.New("a\x1b[2J\u009b\r\nb\x00\xff")).Error("client \x07said")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if want := `client \x07said: a\x1b[2J\u009b\r; b\x00\xff` + "\n"; string(b) != want || err != nil {
		t.Errorf("log %q, %v; want %q", b, err, want)
	}
}
