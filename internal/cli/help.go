package cli

import (
	"fmt"
	"strings"
)

// Usage returns the lines of a client tool's help that describe all options, in two
// columns with ": " between them. Help has its own line ends, after at most 55 letters.
func Usage(all []Option) string {
	const width = 22
	var s strings.Builder
	for _, o := range all {
		if o.Hidden {
			continue
		}
		left := o.spelling()
		for _, arg := range []string{o.Arg, o.File} {
			if arg != "" {
				left += " " + arg
			}
		}
		fmt.Fprintf(&s, "%-*s: %s\n", width, left, strings.ReplaceAll(o.Help, "\n", "\n"+strings.Repeat(" ", width+2)))
	}
	return s.String()
}

// The columns of Help.
const (
	helpColumn = 26
	helpEnd    = 80
)

// Help returns the options under the headings of their sections, in the order in which
// the sections first occur, with letters, suboptions and wrapped texts.
func Help(all []Option) string {
	var sections []string
	by := map[string]*strings.Builder{}
	for _, o := range all {
		if o.Hidden {
			continue
		}
		if by[o.Section] == nil {
			sections = append(sections, o.Section)
			by[o.Section] = &strings.Builder{}
		}
		o.help(by[o.Section])
	}
	var s strings.Builder
	for i, name := range sections {
		if i > 0 {
			s.WriteByte('\n')
		}
		if name != "" {
			s.WriteString(name + ":\n")
		}
		s.WriteString(by[name].String())
	}
	return s.String()
}

func (o Option) help(s *strings.Builder) {
	left := "  "
	for _, letter := range o.Short {
		left += "-" + string(letter) + ", "
	}
	left += "--" + o.Name
	if o.Arg != "" {
		left += " " + o.Arg
	}
	columns(s, left, o.Help)
	if o.Sub == nil {
		return
	}
	for _, sub := range o.Sub() {
		left := "      " + sub.Name
		if sub.Arg != "" {
			left += "=" + sub.Arg
		}
		columns(s, left, sub.Help)
	}
}

// columns writes left, and right wrapped in the second column.
func columns(s *strings.Builder, left, right string) {
	s.WriteString(left)
	at := len(left)
	if at > helpColumn-2 {
		s.WriteByte('\n')
		at = 0
	}
	for _, word := range strings.Fields(right) {
		switch {
		case at > helpColumn && at+1+len(word) >= helpEnd:
			fmt.Fprintf(s, "\n%*s", helpColumn, "")
			at = helpColumn
		case at <= helpColumn:
			fmt.Fprintf(s, "%*s", helpColumn-at, "")
			at = helpColumn
		default:
			s.WriteByte(' ')
			at++
		}
		s.WriteString(word)
		at += len(word)
	}
	s.WriteByte('\n')
}
