package doctor

import (
	"errors"
	"path/filepath"
	"strings"
)

// policy contains the file rules of an AppArmor profile.
type policy struct {
	read  func(path string) (string, error)
	vars  map[string][]string
	rules []fileRule
}

type fileRule struct {
	deny        bool
	glob, perms string
}

func newPolicy(read func(path string) (string, error)) policy {
	return policy{read: read, vars: map[string][]string{}}
}

// maxIncludes is the limit for nested includes.
const maxIncludes = 10

// load adds the rules of a file and of the files that it includes. A rule must be on one line.
// Other rules than file rules, and the ends of profiles, are ignored.
//
// Source: apparmor.d(5).
func (p *policy) load(file string, depth int) error {
	if depth > maxIncludes {
		return errors.New("too many includes")
	}
	text, err := p.read(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(strings.TrimPrefix(line, "#"), "include "); ok {
			p.include(rest, depth)
			continue
		}
		line, _, _ = strings.Cut(line, " #")
		if strings.HasPrefix(line, "#") {
			continue
		}
		if name, values, ok := strings.Cut(line, "="); ok && strings.HasPrefix(line, "@{") {
			name = strings.TrimRight(strings.TrimSpace(name), "+ ")
			p.vars[name] = append(p.vars[name], strings.Fields(values)...)
			continue
		}
		p.rule(strings.TrimSuffix(strings.TrimSpace(line), ","))
	}
	return nil
}

// include loads <FILE> or "FILE", relative to /etc/apparmor.d, if it exists. Directories are
// ignored, although AppArmor's parser loads all files in them.
func (p *policy) include(file string, depth int) {
	file = strings.TrimPrefix(strings.TrimSpace(file), "if exists ")
	file = strings.Trim(strings.TrimSpace(file), `<>"`)
	if !filepath.IsAbs(file) {
		file = filepath.Join("/etc/apparmor.d", file)
	}
	_ = p.load(file, depth+1)
}

// rule adds a file rule: [owner|deny|audit|allow]... PATH PERMS.
func (p *policy) rule(s string) {
	var r fileRule
	f := strings.Fields(s)
	for len(f) > 0 && (f[0] == "owner" || f[0] == "audit" || f[0] == "allow" || f[0] == "deny" || f[0] == "file") {
		r.deny = r.deny || f[0] == "deny"
		f = f[1:]
	}
	if len(f) != 2 {
		return
	}
	r.glob, r.perms = strings.Trim(f[0], `"`), f[1]
	if !strings.HasPrefix(r.glob, "/") && !strings.HasPrefix(r.glob, "@{") {
		return
	}
	p.rules = append(p.rules, r)
}

// allows reports whether all of perms are allowed for path. It assumes that a rule for the owner
// applies.
func (p *policy) allows(path, perms string) bool {
	for _, c := range perms {
		ok := false
		for _, r := range p.rules {
			if !strings.ContainsRune(r.perms, c) || !p.matches(r.glob, path, 0) {
				continue
			}
			if r.deny {
				return false
			}
			ok = true
		}
		if !ok {
			return false
		}
	}
	return true
}

// matches reports whether path matches glob after variables are replaced.
func (p *policy) matches(glob, path string, depth int) bool {
	before, rest, ok := strings.Cut(glob, "@{")
	name, after, closed := strings.Cut(rest, "}")
	if !ok || !closed || depth > maxIncludes {
		return matchGlob(glob, path)
	}
	for _, v := range p.vars["@{"+name+"}"] {
		joined := strings.TrimSuffix(before+v, "/") // AppArmor treats // as /
		if !strings.HasPrefix(after, "/") {
			joined = before + v
		}
		if p.matches(joined+after, path, depth+1) {
			return true
		}
	}
	return false
}

// matchGlob reports whether s matches an AppArmor pattern: ? and * within a name, ** for
// anything, [set], {one,other}, \ before a literal character. An incomplete pattern
// matches nothing.
func matchGlob(pattern, s string) bool {
	for _, alternative := range braces(pattern, 0) {
		steps := maxSteps
		if matchPlain(alternative, s, &steps) {
			return true
		}
	}
	return false
}

// maxAlternatives is the limit for the expansion of braces.
const maxAlternatives = 256

// braces expands the braces in pattern.
func braces(pattern string, depth int) []string {
	open := strings.IndexByte(pattern, '{')
	if open < 0 || depth > maxIncludes {
		return []string{pattern}
	}
	level, from := 0, open+1
	var parts []string
	for i := open; i < len(pattern); i++ {
		switch pattern[i] {
		case '{':
			level++
		case ',':
			if level == 1 {
				parts = append(parts, pattern[from:i])
				from = i + 1
			}
		case '}':
			if level--; level > 0 {
				continue
			}
			parts = append(parts, pattern[from:i])
			var out []string
			for _, p := range parts {
				out = append(out, braces(pattern[:open]+p+pattern[i+1:], depth+1)...)
				if len(out) > maxAlternatives {
					return nil
				}
			}
			return out
		}
	}
	return nil
}

// maxSteps limits the time for a pattern with many stars.
const maxSteps = 100_000

// matchPlain reports whether s matches a pattern without braces. It returns false when *steps, which
// it decrements, becomes negative.
func matchPlain(pattern, s string, steps *int) bool {
	for pattern != "" {
		if *steps--; *steps < 0 {
			return false
		}
		switch {
		case pattern[0] == '*':
			rest := strings.TrimLeft(pattern, "*")
			deep := len(pattern)-len(rest) > 1
			for i := 0; i <= len(s); i++ {
				if matchPlain(rest, s[i:], steps) {
					return true
				}
				if i < len(s) && s[i] == '/' && !deep {
					return false
				}
			}
			return false
		case s == "":
			return false
		case pattern[0] == '[':
			end := strings.IndexByte(pattern, ']')
			if end < 0 || !inSet(pattern[1:end], s[0]) {
				return false
			}
			pattern = pattern[end:]
		case pattern[0] == '?':
			if s[0] == '/' {
				return false
			}
		case pattern[0] == '\\' && len(pattern) > 1:
			if pattern = pattern[1:]; pattern[0] != s[0] {
				return false
			}
		case pattern[0] != s[0]:
			return false
		}
		pattern, s = pattern[1:], s[1:]
	}
	return s == ""
}

// inSet reports whether c is in set, such as abc, a-z or ^abc.
func inSet(set string, c byte) bool {
	set, not := strings.CutPrefix(set, "^")
	for i := 0; i < len(set); i++ {
		if i+2 < len(set) && set[i+1] == '-' {
			if set[i] <= c && c <= set[i+2] {
				return !not
			}
			i += 2
			continue
		}
		if set[i] == c {
			return !not
		}
	}
	return not
}
