package fleet

import (
	"strings"
	"unicode/utf8"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// maxLocation is the largest number of characters of a path in the table.
const maxLocation = 40

// shortLocation returns the location of the state of a TPM that nothing names: as much of the end of its path
// as fits, in whole parts. It returns "" for other TPMs.
func (t *TPM) shortLocation() string {
	p := t.unnamedPath()
	if utf8.RuneCountInString(p) <= maxLocation {
		return p
	}
	short := ""
	for rest, more := p, true; more; {
		var part string
		rest, part, more = cutLast(rest)
		if short != "" && utf8.RuneCountInString(part+short)+2 > maxLocation {
			break
		}
		short = "/" + part + short
	}
	if n := utf8.RuneCountInString(short); n >= maxLocation {
		short = string([]rune(short)[n-maxLocation+1:])
	}
	return "…" + short
}

// cutLast returns path without its last part, and that part. more is false if it was the only one.
func cutLast(path string) (rest, part string, more bool) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:], i > 0
}

// locations returns what a pattern matches of the path of the state of a TPM that nothing names: the
// whole path, each part, and each end of the path.
func (t *TPM) locations() []string {
	p := t.unnamedPath()
	all := []string{p}
	for more := true; more; {
		var part string
		p, part, more = cutLast(p)
		all = append(all, part, strings.TrimPrefix(all[0][len(p):], "/"))
	}
	return all
}

// unnamedPath returns the path of the state, or its name in the cluster store, if the TPM is named
// by its process id.
func (t *TPM) unnamedPath() string {
	if t.cfg == nil || t.Name != pidName(t.PID) {
		return ""
	}
	if l := t.cfg.State.Location; l.Kind == nv.Directory || l.Kind == nv.File {
		return l.Path
	}
	return t.Location
}
