package config

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/swtpm-go/swtpm/internal/cli/completion"
)

// value describes one field to the parsers of options and profiles, and to all that is
// generated from the tables: profiles, help, completion and checks.
type value struct {
	// parse reads text. Its error is about the syntax of text, in the words of the
	// reference. fill sets the field; its error is about the meaning. There are two steps
	// because the reference checks the syntax of all suboptions before it uses the first.
	parse func(text string) (fill func() error, err error)

	// fromTOML returns the text of a value in a profile, false if its type is wrong.
	// It is nil for a suboption that is not valid in a profile.
	fromTOML func(v any) (string, bool)

	// toTOML returns the value of the field as a string, a []string, an int or a bool, and
	// whether it was configured; v is nil if there is nothing to write.
	toTOML func() (v any, asked bool)

	want     string // description of the valid values; follows "must be "
	form     string // the syntax, if the reference's message does not describe it; follows "takes "
	mayEmpty bool   // "" is a valid value
	exact    bool   // the error of fill names the part of the text that is wrong

	arg        string                   // the value in the help; "" for a switch
	path       completion.Kind          // File or Directory for a path
	rebase     func(dir string)         // makes a relative path begin in dir; nil if it is no path
	outside    bool                     // the path is used outside of a new root
	descriptor func() (fd int, ok bool) // the inherited descriptor that the field names; nil if it names none
}

// anyForm returns the parse function of a value whose syntax is not checked.
func anyForm(fill func(text string) error) func(string) (func() error, error) {
	return func(text string) (func() error, error) {
		return func() error { return fill(text) }, nil
	}
}

// parsed returns the parse function of a value: read converts the text, and use stores the result.
func parsed[T any](read func(text string) (T, error), use func(T)) func(string) (func() error, error) {
	return func(text string) (func() error, error) {
		v, err := read(text)
		return func() error { use(v); return nil }, err
	}
}

// then returns v, which now calls f after the field was set.
func (v value) then(f func()) value {
	parse := v.parse
	v.parse = func(text string) (func() error, error) {
		fill, err := parse(text)
		return func() error {
			if err := fill(); err != nil {
				return err
			}
			f()
			return nil
		}, err
	}
	return v
}

// unset returns v, which is shown as word while its field is empty.
func (v value) unset(word string) value {
	show := v.toTOML
	v.toTOML = func() (any, bool) {
		if x, asked := show(); x != nil {
			return x, asked
		}
		return word, false
	}
	return v
}

// called returns v with arg as the word for the value in the help.
func (v value) called(arg string) value {
	v.arg = arg
	return v
}

func tomlString(v any) (string, bool) { s, ok := v.(string); return s, ok }

// tomlInteger returns a fromTOML function for the whole numbers from least to most.
func tomlInteger(least, most int64) func(v any) (string, bool) {
	return func(v any) (string, bool) {
		n, ok := v.(int64)
		return strconv.FormatInt(n, 10), ok && n >= least && n <= most
	}
}

// text returns the value for any nonempty string.
func text(p *string) value {
	return value{
		parse:    anyForm(func(s string) error { *p = s; return nil }),
		fromTOML: tomlString,
		toTOML:   func() (any, bool) { return textOrNil(*p), true },
		want:     "a string",
		arg:      "TEXT",
	}
}

func textOrNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// prefix returns the value for a string that may be empty.
func prefix(p *string) value {
	v := text(p)
	v.mayEmpty = true
	v.toTOML = func() (any, bool) { return *p, true }
	return v
}

// file returns the value for the path of a file.
func file(p *string) value {
	v := text(p)
	v.want, v.arg, v.path = "the path of a file", "FILE", completion.File
	v.rebase = func(dir string) { *p = beneath(dir, *p) }
	return v
}

// directory returns the value for the path of a directory.
func directory(p *string) value {
	v := file(p)
	v.want, v.arg, v.path = "the path of a directory", "DIR", completion.Directory
	return v
}

// truth returns the value for a bool.
//
// Compat: C-225: every text but "true" and "1" means false, and none is an error.
func truth(p *bool) value {
	return value{
		parse: anyForm(func(s string) error {
			*p = strings.EqualFold(s, "true") || s == "1"
			return nil
		}),
		fromTOML: func(v any) (string, bool) {
			b, ok := v.(bool)
			return strconv.FormatBool(b), ok
		},
		toTOML: func() (any, bool) { return *p, true },
		want:   "true or false, without quotes",
	}
}

// falsity returns the value for an inverted bool: *p is true if the option or key is false.
func falsity(p *bool) value {
	var on bool
	v := truth(&on).then(func() { *p = !on })
	v.toTOML = func() (any, bool) { return !*p, true }
	return v
}

// maxInt is the largest int of the reference, which has 32 bits.
const maxInt = 1<<31 - 1

// number returns the value for an int of 32 bits. least is the smallest number that a profile may
// have, and the smallest that is shown.
func number(p *int, least int) value {
	return value{
		parse:    parsed(parseInt, func(n int) { *p = n }),
		fromTOML: tomlInteger(int64(least), maxInt),
		toTOML: func() (any, bool) {
			if *p < least {
				return nil, false
			}
			return *p, true
		},
		want: fmt.Sprintf("a whole number from %d to %d", least, maxInt),
		form: "a whole number",
		arg:  "N",
	}
}

// descriptor returns the value for the number of an inherited descriptor; a negative one is none.
func descriptor(p *int) value {
	v := number(p, 0)
	v.descriptor = func() (int, bool) { return *p, *p >= 0 }
	return v
}

// duration returns the value for a time span such as "90s" or "2m30s"; "none" is 0, no limit.
func duration(p *time.Duration) value {
	return value{
		parse:    parsed(parseDuration, func(d time.Duration) { *p = d }),
		fromTOML: tomlString,
		toTOML: func() (any, bool) {
			if *p == 0 {
				return "none", true
			}
			return strconv.FormatFloat(p.Seconds(), 'f', -1, 64) + "s", true
		},
		want: `a time span from "1s" to "24h", or "none"`,
		arg:  "TIME",
	}
}

func parseDuration(s string) (time.Duration, error) {
	if s == "none" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second || d > 24*time.Hour {
		return 0, fmt.Errorf("invalid time span '%s'; want 1s to 24h, as 90s or 2m30s, or none", s)
	}
	return d, nil
}

// level returns the value for the log level, a decimal number; 0 counts as 1.
func level(p *int) value {
	v := number(p, 0)
	v.parse = parsed(parseLevel, func(n int) { *p = n })
	v.toTOML = func() (any, bool) { return *p, true }
	return v
}

func parseLevel(s string) (int, error) {
	if strings.Contains(s, "-") {
		return 0, fmt.Errorf("required positive number, got '%s'", s)
	}
	n, err := strconv.ParseInt(trimC(s), 10, 64)
	if err == nil && n > 1<<32-1 {
		err = strconv.ErrRange
	}
	if err != nil {
		return 0, numberError(s, err)
	}
	return int(min(max(n, 1), maxInt)), nil
}

// octal returns the value for the permission bits of a file. Setting them also sets *asked; asked is
// nil if they always count as configured.
func octal(p *fs.FileMode, asked *bool) value {
	return value{
		parse: parsed(parseMode, func(m fs.FileMode) {
			*p = m
			if asked != nil {
				*asked = true
			}
		}),
		fromTOML: func(v any) (string, bool) {
			s, ok := v.(string)
			return s, ok && strings.Trim(s, "01234567") == "" && s != ""
		},
		toTOML: func() (any, bool) { return fmt.Sprintf("%04o", uint32(*p)), asked == nil || *asked },
		want:   `an octal mode in quotes, "0000" to "0777"`,
		form:   "an octal mode, such as 0640",
		arg:    "OCTAL",
	}
}

func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseInt(trimC(s), 8, 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf("invalid mode type '%s'", s)
	case n < 0 || n > 0o777 || strings.Contains(s, "-"):
		return 0, fmt.Errorf("mode %s is invalid", s)
	}
	return fs.FileMode(n), nil
}

// word is a value of a field and its text.
type word[T any] struct {
	text  string
	value T
}

// words returns each of values with the text that fmt.Sprint returns for it.
func words[T any](values ...T) []word[T] {
	var out []word[T]
	for _, v := range values {
		out = append(out, word[T]{fmt.Sprint(v), v})
	}
	return out
}

// choice returns the value for one of a few words. unknown is the format of the reference's error
// for another text; "" if no option has the value. A *p that is not in of is not shown.
func choice[T comparable](p *T, unknown string, of []word[T]) value {
	texts := make([]string, len(of))
	for i, w := range of {
		texts[i] = w.text
	}
	want := orList(texts)
	set := func(s string) error {
		i := slices.Index(texts, s)
		if i < 0 {
			text := fmt.Sprintf(cmp.Or(unknown, "unknown value '%s'"), s)
			if strings.HasSuffix(text, ".") {
				return refuse("%s Want %s.", text, want)
			}
			return refuse("%s; want %s", text, want)
		}
		*p = of[i].value
		return nil
	}
	show := func() (any, bool) {
		for _, w := range of {
			if w.value == *p {
				return w.text, true
			}
		}
		return nil, false
	}
	return value{parse: anyForm(set), fromTOML: tomlString, toTOML: show, want: want, arg: strings.Join(texts, "|")}
}

// orList returns words in quotes as a list with "or" before the last.
func orList(words []string) string {
	var b strings.Builder
	for i, s := range words {
		switch {
		case i > 0 && i == len(words)-1:
			b.WriteString(" or ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(s))
	}
	return b.String()
}
