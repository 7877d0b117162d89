package program

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// PrintableLine returns s as one line for messages and logs: newlines become semicolons,
// and each character that a terminal would not print becomes an escape sequence of Go, such
// as \x1b. Messages quote arguments, names of files, keys of a profile and what a client
// sends; a terminal obeys control characters in them, and a log takes a newline for the end
// of the message.
func PrintableLine(s string) string {
	return Printable(strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "; "))
}

// Printable does the same as PrintableLine for several lines: newlines stay.
func Printable(s string) string {
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
		case r < 0x20 || r == utf8.RuneError: // a byte that is not UTF-8
			fmt.Fprintf(&b, `\x%02x`, s[0])
		default: // JSON accepts this form
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		s = s[n:]
	}
	return b.String()
}

// unprinted reports whether a terminal does something else with r than print it:
// control characters, and those that change the direction of what follows, or end a
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

// PrintableWriter returns a writer that passes Printable of each piece on to w. A piece
// must not end within a character; those of package fmt do not.
func PrintableWriter(w io.Writer) io.Writer { return printableWriter{w} }

// RawWriter returns the writer below a PrintableWriter, for a script that contains control
// characters. It returns any other writer unchanged.
func RawWriter(w io.Writer) io.Writer {
	if p, ok := w.(printableWriter); ok {
		return p.w
	}
	return w
}

type printableWriter struct{ w io.Writer }

// Write writes b in printable form.
func (w printableWriter) Write(b []byte) (int, error) {
	if _, err := io.WriteString(w.w, Printable(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}
