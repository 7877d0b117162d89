package config

import (
	"strings"
)

// position is a line and a column of a profile, the column in bytes, both from 1.
type position struct{ line, col int }

// where is the position of a key and of its value.
type where struct{ key, value position }

// path joins the words of a key, so that it can index a map.
func path(words ...string) string { return strings.Join(words, "\x00") }

// locate finds the keys of src, which is TOML that the decoder has accepted.
// The TOML package reports the position of a syntax error, but not of a key.
//
// Source: TOML 1.0. locate recognizes only the characters that end a key, a string or a value.
func locate(src string) map[string]where {
	s := scanner{src: strings.TrimPrefix(src, "\ufeff"), found: map[string]where{}}
	var table []string
	for s.skip(" \t\r\n"); s.pos < len(s.src); s.skip(" \t\r\n") {
		start := s.pos
		switch {
		case s.src[s.pos] == '[':
			s.skip("[ \t")
			at := s.here()
			table = s.words()
			s.note(table, at, at)
			s.line()
		default:
			s.pair(table)
			s.line()
		}
		if s.pos == start { // impossible for valid TOML; the loop must end in any case
			s.pos++
		}
	}
	return s.found
}

// scanner reads a profile from the begin to the end.
type scanner struct {
	src   string
	pos   int
	found map[string]where

	lines, seen, begin int // line count up to seen; begin of that line
}

// skip moves past bytes in set, and past comments if set contains a line end.
func (s *scanner) skip(set string) {
	for s.pos < len(s.src) {
		switch {
		case s.src[s.pos] == '#' && strings.Contains(set, "\n"):
			s.line()
		case strings.IndexByte(set, s.src[s.pos]) >= 0:
			s.pos++
		default:
			return
		}
	}
}

// line moves to the end of the line.
func (s *scanner) line() {
	if n := strings.IndexByte(s.src[s.pos:], '\n'); n >= 0 {
		s.pos += n
		return
	}
	s.pos = len(s.src)
}

// here returns the position of the next byte.
func (s *scanner) here() position {
	for ; s.seen < s.pos; s.seen++ {
		if s.src[s.seen] == '\n' {
			s.lines++
			s.begin = s.seen + 1
		}
	}
	return position{s.lines + 1, s.pos - s.begin + 1}
}

// note records the first position of a key and of the tables that it implies.
func (s *scanner) note(words []string, key, value position) {
	for n := 1; n <= len(words); n++ {
		p := path(words[:n]...)
		if _, ok := s.found[p]; !ok {
			s.found[p] = where{key, value}
		}
	}
}

// words reads a key: bare or quoted words with dots between them.
func (s *scanner) words() []string {
	var out []string
	for {
		s.skip(" \t")
		out = append(out, s.word())
		s.skip(" \t")
		if s.pos >= len(s.src) || s.src[s.pos] != '.' {
			return out
		}
		s.pos++
	}
}

// word reads one word of a key. An escape sequence in a quoted word is not decoded, because no
// key of a profile needs one.
func (s *scanner) word() string {
	start := s.pos
	if start < len(s.src) && (s.src[start] == '"' || s.src[start] == '\'') {
		s.quoted()
		return strings.Trim(s.src[start:s.pos], s.src[start:start+1])
	}
	for s.pos < len(s.src) && strings.IndexByte(" \t\r\n.=[]{},#\"'", s.src[s.pos]) < 0 {
		s.pos++
	}
	return s.src[start:s.pos]
}

// quoted moves past a string of any of the four kinds.
func (s *scanner) quoted() {
	quote := s.src[s.pos : s.pos+1]
	triple := strings.Repeat(quote, 3)
	end := quote
	if strings.HasPrefix(s.src[s.pos:], triple) {
		end = triple
	}
	for s.pos += len(end); s.pos < len(s.src); s.pos++ {
		if quote == `"` && s.src[s.pos] == '\\' {
			s.pos++
			continue
		}
		if !strings.HasPrefix(s.src[s.pos:], end) {
			continue
		}
		s.pos += len(end)
		for n := 0; n < 2 && end == triple && strings.HasPrefix(s.src[s.pos:], quote); n++ {
			s.pos++ // up to two quotes may precede the three that end it
		}
		return
	}
	s.pos = len(s.src)
}

// pair reads key = value in table.
func (s *scanner) pair(table []string) {
	key := s.here()
	words := append(append([]string{}, table...), s.words()...)
	s.skip(" \t=")
	s.note(words, key, s.here())
	s.value(words)
}

// value moves past a value; words is its key.
func (s *scanner) value(words []string) {
	if s.pos >= len(s.src) {
		return
	}
	switch s.src[s.pos] {
	case '"', '\'':
		s.quoted()
	case '[':
		s.list(func() { s.value(words) })
	case '{':
		s.list(func() { s.pair(words) })
	default:
		for s.pos < len(s.src) && strings.IndexByte(",]}#\n", s.src[s.pos]) < 0 {
			s.pos++
		}
	}
}

// list moves past an array or an inline table.
func (s *scanner) list(element func()) {
	for s.pos++; ; {
		s.skip(" \t\r\n,")
		if s.pos >= len(s.src) {
			return
		}
		if s.src[s.pos] == ']' || s.src[s.pos] == '}' {
			s.pos++
			return
		}
		start := s.pos
		element()
		if s.pos == start {
			s.pos++
		}
	}
}
