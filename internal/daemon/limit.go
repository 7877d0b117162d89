package daemon

import (
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/swtpm-go/swtpm/internal/program"
)

// The limit of one kind of line: a client that is refused a thousand times a second must
// not fill the disk.
const (
	limitBurst = 20               // lines of one kind at once
	limitEvery = 6 * time.Second  // then one in this time
	limitFlush = 10 * time.Second // the number of suppressed lines is logged after this time
	limitKinds = 64               // kinds with a limit of their own; all others share one
	limitQuote = 200              // bytes of a suppressed line that are quoted
)

// limiter limits how many lines of one kind are logged. Lines are of one kind if they differ only
// in numbers and in quoted text. It allocates memory with the first line, for at most limitKinds
// kinds, and has a timer while lines are suppressed.
type limiter struct {
	now  func() time.Time
	wake func(time.Duration, func()) // calls a function once, later
	note func(text string)           // logs how many lines were suppressed

	mu    sync.Mutex
	seed  maphash.Seed
	kinds []*lineKind
	rest  *lineKind // shared by the kinds beyond limitKinds
	armed bool      // wake was called
}

// lineKind is one kind of line.
type lineKind struct {
	key        uint64
	credit     time.Duration // limitEvery is worth one line
	last       time.Time     // of the kind
	suppressed int
	text       string // the last line that was suppressed
}

func newLimiter(note func(text string)) *limiter {
	return &limiter{now: time.Now, wake: program.After, note: note}
}

// admit reports whether a line may be logged. before, if it is not empty, is a line to log
// first, with the number of suppressed lines of its kind.
func (l *limiter) admit(level logrus.Level, text string) (before string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	k := l.kind(level, text, now)
	k.credit = min(k.credit+now.Sub(k.last), limitBurst*limitEvery)
	k.last = now
	if k.credit < limitEvery {
		k.suppressed++
		k.text = text[:min(len(text), limitQuote)]
		if !l.armed {
			l.armed = true
			l.wake(limitFlush, l.flush)
		}
		return "", false
	}
	k.credit -= limitEvery
	return k.count(), true
}

// count returns the line about the suppressed lines, "" if there are none, and resets the
// counter.
func (k *lineKind) count() string {
	if k.suppressed == 0 {
		return ""
	}
	s := fmt.Sprintf("%d similar lines suppressed: %s", k.suppressed, program.PrintableLine(k.text)) // it may be cut within a character
	k.suppressed, k.text = 0, ""
	return s
}

// flush logs the number of suppressed lines of each kind.
func (l *limiter) flush() {
	l.mu.Lock()
	l.armed = false
	var lines []string
	for _, k := range append(l.kinds[:len(l.kinds):len(l.kinds)], l.rest) {
		if k == nil {
			continue
		}
		if s := k.count(); s != "" {
			lines = append(lines, s)
		}
	}
	l.mu.Unlock()
	for _, s := range lines {
		l.note(s)
	}
}

// kind returns the kind of a line. A new kind may replace one that has its full burst
// again, because nothing is lost with that.
func (l *limiter) kind(level logrus.Level, text string, now time.Time) *lineKind {
	if l.kinds == nil {
		l.seed = maphash.MakeSeed()
		l.rest = &lineKind{credit: limitBurst * limitEvery, last: now}
	}
	key := l.key(level, text)
	var free *lineKind
	for _, k := range l.kinds {
		if k.key == key {
			return k
		}
		if k.suppressed == 0 && k.credit+now.Sub(k.last) >= limitBurst*limitEvery {
			free = k
		}
	}
	switch {
	case len(l.kinds) < limitKinds:
		free = new(lineKind)
		l.kinds = append(l.kinds, free)
	case free == nil:
		return l.rest
	}
	*free = lineKind{key: key, credit: limitBurst * limitEvery, last: now}
	return free
}

// key returns a hash of what the lines of a kind have in common: the level and the words,
// without words that contain digits and without quoted text.
func (l *limiter) key(level logrus.Level, text string) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	_ = h.WriteByte(byte(level))
	for i := 0; i < len(text); {
		n, common := word(text[i:])
		if common {
			_, _ = h.WriteString(text[i : i+n])
		} else {
			_ = h.WriteByte('#')
		}
		i += n
	}
	return h.Sum64()
}

// word returns the length of the first word of s, which is not empty: letters and
// digits, quoted text, or one other character. common is false if other lines of the kind
// may have another word there.
func word(s string) (n int, common bool) {
	if s[0] == '"' {
		for n = 1; n < len(s) && s[n] != '"'; n++ {
			if s[n] == '\\' {
				n++
			}
		}
		return min(n+1, len(s)), false
	}
	common = true
	for n < len(s) && isWord(s[n]) {
		common = common && (s[n] < '0' || s[n] > '9')
		n++
	}
	return max(n, 1), common
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}
