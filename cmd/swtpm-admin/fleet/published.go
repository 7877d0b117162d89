package fleet

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// merge adds the metrics that a TPM publishes itself. It ignores a file with lines that swtpm does
// not write, because another process may have written it.
func (e *exposition) merge(name string, text []byte) {
	families, ok := parse(text)
	if !ok {
		return
	}
	for _, from := range families {
		f := e.add(from.name, from.kind, from.unit, from.help)
		if f.kind != from.kind {
			continue
		}
		for _, s := range from.samples {
			metric, value, _ := cutSample(s)
			if before, after, ok := strings.Cut(metric, "{"); ok {
				metric = before + `{name="` + escapeLabel(name) + `",` + after
			} else {
				metric += `{name="` + escapeLabel(name) + `"}`
			}
			f.samples = append(f.samples, metric+" "+value)
		}
	}
}

// suffixes are the suffixes of the samples of each kind of metric that a TPM publishes.
var suffixes = map[string][]string{"info": {"_info"}, "gauge": {""}, "counter": {"_total"}, "histogram": {"_bucket", "_count", "_sum"}}

// parse reads the metrics of one TPM. It is strict: a scraper refuses all of a text that
// has one invalid line, or one sample twice.
func parse(text []byte) (families []*family, ok bool) {
	if !utf8.Valid(text) || strings.ContainsFunc(string(text), func(r rune) bool { return r != '\n' && unicode.IsControl(r) }) {
		return nil, false
	}
	var f *family
	names, seen := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		words := strings.SplitN(line, " ", 4)
		about := len(words) == 4 && words[0] == "#"
		switch {
		case line == "# EOF":
			return families, true
		case about && f != nil && words[2] == f.name && words[1] == "HELP" && isHelp(words[3]):
			f.help = words[3]
		case about && f != nil && words[2] == f.name && words[1] == "UNIT" && isLabel(words[3]) && strings.HasSuffix(f.name, "_"+words[3]):
			f.unit = words[3]
		case about && words[1] == "TYPE" && isMetric(words[2]) && suffixes[words[3]] != nil && !names[words[2]]:
			f = &family{name: words[2], kind: words[3]}
			families, names[f.name] = append(families, f), true
		default:
			id, ok := identify(line, f)
			if !ok || seen[id] {
				return nil, false
			}
			f.samples, seen[id] = append(f.samples, line), true
		}
	}
	return nil, false // the end is missing
}

// isMetric reports whether a name is one of a TPM's metrics.
func isMetric(s string) bool {
	return strings.HasPrefix(s, "swtpm_") && !strings.HasPrefix(s, "swtpm_host_") && !strings.HasPrefix(s, "swtpm_tpm") &&
		!strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' })
}

// The lexical elements of OpenMetrics.
//
// Source: OpenMetrics 1.0.0, ABNF.
var (
	labelPattern  = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"`)
	namePattern   = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)
	numberPattern = regexp.MustCompile(`^-?[0-9]{1,40}(\.[0-9]{1,40})?(e[+-]?[0-9]{1,3})?$`)
	helpPattern   = regexp.MustCompile(`^(?:[^\\]|\\["\\n])*$`)
)

func isLabel(s string) bool { return namePattern.MatchString(s) }

func isHelp(s string) bool { return helpPattern.MatchString(s) }

// cutSample splits a sample at the space before its value, the last one.
func cutSample(line string) (metric, value string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// identify reports whether a line is a sample of f: a name, labels, and one number. id identifies
// the sample; it does not depend on the order of the labels.
func identify(line string, f *family) (id string, ok bool) {
	metric, value, ok := cutSample(line)
	if !ok || f == nil || !numberPattern.MatchString(value) {
		return "", false
	}
	metric, labels, _ := strings.Cut(metric, "{")
	suffix, ok := strings.CutPrefix(metric, f.name)
	if !ok || !slices.Contains(suffixes[f.kind], suffix) {
		return "", false
	}
	var all, names []string
	if len(metric) < strings.LastIndexByte(line, ' ') { // it has a brace
		if all, names, ok = parseLabels(labels); !ok {
			return "", false
		}
	}
	if slices.Contains(names, "le") != (suffix == "_bucket") {
		return "", false
	}
	slices.Sort(all)
	return metric + "{" + strings.Join(all, ","), true
}

// parseLabels returns the labels of a sample, which end with a brace, and their names. ok is false
// if a name occurs twice, or if a label has the name "name", which merge adds.
func parseLabels(s string) (all, names []string, ok bool) {
	for {
		m := labelPattern.FindStringSubmatch(s)
		if m == nil || m[1] == "name" || slices.Contains(names, m[1]) || m[1] == "le" && m[2] != "+Inf" && !numberPattern.MatchString(m[2]) {
			return nil, nil, false
		}
		all, names, s = append(all, m[0]), append(names, m[1]), s[len(m[0]):]
		if s == "}" {
			return all, names, true
		}
		if s, ok = strings.CutPrefix(s, ","); !ok {
			return nil, nil, false
		}
	}
}
