package config

import (
	"fmt"
	"strings"

	"github.com/swtpm-go/swtpm/internal/program"
)

// UsageError is a command line that swtpm refuses.
//
// The caller prints Error() and a newline, then Usage, to stderr, and exits with Code.
// If Log.Given is true, --log was read before the error was found: the caller writes the
// line to that log instead, as the user and inside the root directory that Sandbox names.
type UsageError struct {
	Text    string // one line, without prefix and newline
	Usage   string // what follows on stderr; ends in a newline, or ""
	Code    int    // exit code
	Log     Log    // the log as it was when the error was found
	Sandbox Sandbox
	Raw     bool // Text has no log prefix: it comes from the option parser

	// Word is the first word of a command line if it names no interface: the help of the
	// program follows, and the word that was probably meant.
	Word        string
	NoInterface bool
}

// Error returns the line as it is printed.
func (e *UsageError) Error() string {
	switch {
	case e.Raw:
		return e.Text
	case e.Log.Given:
		return e.Log.Prefix + e.Text
	}
	return defaultPrefix + e.Text
}

// HelpRequested is the error for -h and --help: Text goes to stdout, exit code 0.
type HelpRequested struct {
	Text string
}

// Error returns a fixed text.
func (h *HelpRequested) Error() string { return "help requested" }

// ProfileError is one mistake in a profile.
type ProfileError struct {
	File string
	Line int    // from 1; 0 if the error is about the whole file
	Col  int    // in bytes, from 1
	Key  string // "tpm", "[tpmstate]", "[tpmstate] mode"; "" if TOML itself is wrong
	Text string // what is wrong, and what to write instead
}

// maxError is where a ProfileError is cut off, in bytes: a key may have any length.
const maxError = 1000

// Error returns FILE:LINE:COL: [table] key: what is wrong. It is one line without
// control characters.
func (e *ProfileError) Error() string {
	s := e.text()
	if len(s) > maxError {
		s = s[:maxError] + " ..."
	}
	return program.PrintableLine(s)
}

func (e *ProfileError) text() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Col)
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	return b.String() + ": " + e.Text
}

// refusal is an error in the words of the reference that is printed without the usual prefix
// "Error parsing … options: ".
type refusal string

func (r refusal) Error() string { return string(r) }

func refuse(format string, args ...any) refusal { return refusal(fmt.Sprintf(format, args...)) }
