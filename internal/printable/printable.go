// Package printable makes text safe to print. A message quotes what others have
// chosen: arguments, names of files, keys of a profile, what a client sends. A
// terminal obeys control characters in it, and a log takes a newline for the end of
// the message.
package printable

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns s as one line: lines are joined by semicolons, and every character
// that is not printed is an escape sequence of Go, such as \x1b.
func Line(s string) string {
	return Text(strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "; "))
}

// Text is Line for several lines: newlines stay.
func Text(s string) string {
	if !strings.ContainsFunc(s, unprinted) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case !unprinted(r), n == len("\uFFFD") && r == utf8.RuneError:
			b.WriteString(s[:n])
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x20 || r == utf8.RuneError: // a byte that is no UTF-8
			fmt.Fprintf(&b, `\x%02x`, s[0])
		default: // JSON knows this one
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[n:]
	}
	return b.String()
}

// unprinted reports whether a terminal does something else with r than print it:
// control characters, and those that turn the direction of what follows, or end a
// line.
func unprinted(r rune) bool {
	switch {
	case r == '\n':
		return false
	case unicode.IsControl(r), r == utf8.RuneError:
		return true
	case r == 0x061C, r == 0x200E, r == 0x200F, r >= 0x2028 && r <= 0x202E, r >= 0x2066 && r <= 0x2069:
		return true
	}
	return false
}

// Writer returns a writer that passes Text of each piece on to w. A piece must not
// end within a character; those of package fmt do not.
func Writer(w io.Writer) io.Writer { return writer{w} }

// Raw returns what a writer of this package passes text on to, for a script that has
// control characters of its own; else w.
func Raw(w io.Writer) io.Writer {
	if p, ok := w.(writer); ok {
		return p.w
	}
	return w
}

type writer struct{ w io.Writer }

func (w writer) Write(b []byte) (int, error) {
	if _, err := io.WriteString(w.w, Text(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}
