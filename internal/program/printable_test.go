package program

import (
	"strings"
	"testing"
	"unicode"
)

// TestPrintableLine checks the escapes of control characters.
func TestPrintableLine(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"plain, as most are: \u00e4\u00df\u4e16", "plain, as most are: \u00e4\u00df\u4e16"},
		{"one\ntwo\n", "one; two"},
		{"\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`},
		{"\x00\a\b\t\r\x7f", `\x00\x07\x08\t\r\u007f`},
		{"\u009b2J", `\u009b2J`},
		{"\u202Etxt.exe\u2066\u2028\u200f", `\u202etxt.exe\u2066\u2028\u200f`},
		{"no UTF-8: \xff\xc3", `no UTF-8: \xff\xc3`},
		{"a real \uFFFD", "a real \uFFFD"},
		{`a backslash \ stays`, `a backslash \ stays`},
	} {
		if got := PrintableLine(c.in); got != c.want {
			t.Errorf("PrintableLine(%q) = %q, want %q", c.in, got, c.want)
		}
	}
	if got, want := Printable("one\n\x1btwo\n"), "one\n\\x1btwo\n"; got != want {
		t.Errorf("Printable = %q, want %q", got, want)
	}
	var b strings.Builder
	if n, err := PrintableWriter(&b).Write([]byte("\x1b\n")); n != 2 || err != nil || b.String() != "\\x1b\n" {
		t.Errorf("Write = %d, %v, %q", n, err, b.String())
	}
}

// FuzzPrintableLine checks that the result has no control character and does not change if it is
// escaped again.
func FuzzPrintableLine(f *testing.F) {
	f.Add("\x1b]0;title\a\n\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := PrintableLine(s)
		if i := strings.IndexFunc(got, unicode.IsControl); i >= 0 {
			t.Errorf("PrintableLine(%q) = %q, with a control character at %d", s, got, i)
		}
		if again := PrintableLine(got); again != got {
			t.Errorf("PrintableLine(PrintableLine(%q)) = %q, want %q", s, again, got)
		}
	})
}
