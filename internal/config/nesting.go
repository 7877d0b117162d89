package config

import "strings"

// maxNesting is how deep arrays, tables and dotted keys of a profile may be nested; valid profiles
// need two levels. The time of the decoder grows with the cube of the depth, and its memory to
// a hundred times the size of the file.
const maxNesting = 16

// tooDeep returns the position in src at which something is nested deeper than maxNesting;
// ok is false if nothing is. src need not be TOML: the decoder reports that later.
//
// Source: TOML 1.0. tooDeep recognizes only strings and comments, which may contain
// brackets and dots.
func tooDeep(src string) (at position, ok bool) {
	s := nesting{src: src}
	for s.pos < len(src) {
		switch src[s.pos] {
		case '#':
			s.line()
			continue
		case '"', '\'':
			s.text(src[s.pos])
			continue
		case '[', '{':
			s.depth++
		case ']', '}':
			s.depth = max(s.depth-1, 0)
		case '.':
			s.dots++
		case '=', ',':
			s.dots = 0
		case '\n':
			s.dots = 0
		}
		if s.depth > maxNesting || s.dots > maxNesting {
			before := src[:s.pos]
			return position{strings.Count(before, "\n") + 1, s.pos - strings.LastIndexByte(before, '\n')}, true
		}
		s.pos++
	}
	return position{}, false
}

// nesting is a position in a profile, and how deep the text is nested there.
type nesting struct {
	src         string
	pos         int
	depth, dots int
}

// line moves to the end of the line.
func (s *nesting) line() {
	if n := strings.IndexByte(s.src[s.pos:], '\n'); n >= 0 {
		s.pos += n
		return
	}
	s.pos = len(s.src)
}

// text moves to the end of the string that begins at pos with quote. A multi-line string may have
// up to two quotes before the three that end it. A single-line string without an end, which the
// decoder rejects later, ends with its line.
func (s *nesting) text(quote byte) {
	three := strings.Repeat(string(quote), 3)
	multiline := strings.HasPrefix(s.src[s.pos:], three)
	if multiline {
		s.pos += 3
	} else {
		s.pos++
	}
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; {
		case c == '\\' && quote == '"':
			s.pos++
		case multiline && strings.HasPrefix(s.src[s.pos:], three):
			s.pos += 3
			for range 2 {
				if s.pos < len(s.src) && s.src[s.pos] == quote {
					s.pos++
				}
			}
			return
		case !multiline && c == quote:
			s.pos++
			return
		case !multiline && c == '\n':
			return
		}
		s.pos++
	}
	s.pos = min(s.pos, len(s.src))
}
