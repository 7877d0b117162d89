package fleet

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// family is one metric of the endpoint.
type family struct {
	name, kind, unit, help string
	samples                []string
}

// exposition collects the families in their order.
type exposition struct {
	families []*family
	byName   map[string]*family
}

// add returns the family with a name, a new one if it is the first.
func (e *exposition) add(name, kind, unit, help string) *family {
	if f, ok := e.byName[name]; ok {
		return f
	}
	f := &family{name: name, kind: kind, unit: unit, help: help}
	e.families, e.byName[name] = append(e.families, f), f
	return f
}

// set adds a sample; labels are names, each with its value after it.
func (f *family) set(suffix string, value float64, labels ...string) {
	var b strings.Builder
	b.WriteString(f.name + suffix)
	for i := 0; i < len(labels); i += 2 {
		b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		b.WriteString(labels[i] + `="` + escapeLabel(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		b.WriteString("}")
	}
	f.samples = append(f.samples, b.String()+" "+strconv.FormatFloat(value, 'g', -1, 64))
}

// escapeLabel returns the value of a label: valid UTF-8 without quotes and newlines.
func escapeLabel(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
}

// Metrics returns the facts of the TPMs, totals, and the metrics that the TPMs publish
// themselves, as OpenMetrics text. Each sample of one TPM has the label name.
//
// Source: OpenMetrics 1.0.0, Text Format.
func Metrics(tpms []TPM, notes []string, took time.Duration) []byte {
	e := &exposition{byName: map[string]*family{}}
	e.totals(tpms, notes, took)
	for i := range tpms {
		e.facts(&tpms[i])
	}
	for _, t := range tpms {
		e.merge(t.Name, t.text)
	}
	var b bytes.Buffer
	for _, f := range e.families {
		if len(f.samples) == 0 {
			continue
		}
		fmt.Fprintf(&b, "# TYPE %s %s\n", f.name, f.kind)
		if f.unit != "" {
			fmt.Fprintf(&b, "# UNIT %s %s\n", f.name, f.unit)
		}
		fmt.Fprintf(&b, "# HELP %s %s\n", f.name, f.help)
		for _, s := range f.samples {
			b.WriteString(s + "\n")
		}
	}
	b.WriteString("# EOF\n")
	return b.Bytes()
}

func (e *exposition) totals(tpms []TPM, notes []string, took time.Duration) {
	states, restart := map[string]int{}, map[string]int{}
	for _, t := range tpms {
		states[t.State]++
		restart[t.Restart]++
	}
	f := e.add("swtpm_host_tpms", "gauge", "", "Number of TPMs of this host by state.")
	for _, s := range []string{Running, Starting, Stopped, Failed, Unproved} {
		f.set("", float64(states[s]), "state", s)
	}
	f = e.add("swtpm_host_restart_tpms", "gauge", "", "Number of TPMs by whether they need a restart because a library was replaced.")
	for _, s := range []string{RestartNotNeeded, RestartNeeded, RestartUnknown} {
		f.set("", float64(restart[s]), "restart", s)
	}
	e.add("swtpm_host_sources_failed", "gauge", "", "Number of sources of facts that did not answer.").set("", float64(len(notes)))
	e.add("swtpm_host_collection_seconds", "gauge", "seconds", "Time that the collection took.").set("", took.Seconds())
}

// facts adds what the list has of a TPM.
func (e *exposition) facts(t *TPM) {
	name := []string{"name", t.Name}
	e.add("swtpm_tpm", "info", "", "The TPMs of this host.").set("_info", 1, "name", t.Name, "vm", t.VM, "manager", t.Manager, "tpm", t.Version,
		"encryption", t.Encryption, "libtpms", t.Libtpms.version(), "sandbox", t.Sandbox, "pid", strconv.Itoa(t.PID))
	e.add("swtpm_tpm_up", "gauge", "", "Whether the TPM runs.").set("", bit(t.State == Running), name...)
	e.add("swtpm_tpm_failed", "gauge", "", "Whether the unit of the TPM failed.").set("", bit(t.State == Failed), name...)
	e.add("swtpm_tpm_restart_needed", "gauge", "", "Whether the TPM runs a library that was replaced.").set("", bit(t.Restart == RestartNeeded), name...)
	if t.Started != nil {
		e.add("swtpm_tpm_start_timestamp_seconds", "gauge", "seconds", "When the process was started.").set("", seconds(*t.Started), name...)
	}
	if t.Clients != nil {
		e.add("swtpm_tpm_clients", "gauge", "", "Clients that are connected.").set("", float64(*t.Clients), name...)
	}
	if t.Commands != nil {
		e.add("swtpm_tpm_commands", "counter", "", "Commands since the process began, as last reported.").set("_total", float64(*t.Commands), name...)
	}
	if t.Stored != nil {
		e.add("swtpm_tpm_stored_timestamp_seconds", "gauge", "seconds", "When the state was stored last.").set("", seconds(*t.Stored), name...)
	}
	if t.Generation != nil {
		e.add("swtpm_tpm_generation", "gauge", "", "Generation of the stored state.").set("", float64(*t.Generation), name...)
	}
}

// version returns the version of the loaded library, else of the installed one.
func (l *Library) version() string {
	if l == nil {
		return ""
	}
	return versionOf(cmp.Or(l.Loaded, l.Installed))
}

func bit(b bool) float64 { return map[bool]float64{true: 1}[b] }

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// merge adds the metrics that a TPM publishes itself. A file with lines that this program
// does not write is left out: another process may have written it.
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
			metric, value, _ := strings.Cut(s, " ")
			if i := strings.LastIndex(s, "} "); i >= 0 {
				metric, value = s[:i], s[i+2:]
				metric = strings.Replace(metric, "{", `{name="`+escapeLabel(name)+`",`, 1) + "}"
			} else {
				metric += `{name="` + escapeLabel(name) + `"}`
			}
			f.samples = append(f.samples, metric+" "+value)
		}
	}
}

// kinds are the kinds of metrics that a TPM publishes.
var kinds = []string{"info", "gauge", "counter", "histogram"}

// parse reads the metrics of one TPM.
func parse(text []byte) (families []*family, ok bool) {
	var f *family
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		words := strings.SplitN(line, " ", 4)
		switch {
		case line == "# EOF":
			return families, true
		case len(words) == 4 && words[0] == "#" && f != nil && words[2] == f.name && words[1] == "HELP":
			f.help = words[3]
		case len(words) == 4 && words[0] == "#" && f != nil && words[2] == f.name && words[1] == "UNIT":
			f.unit = words[3]
		case len(words) == 4 && words[0] == "#" && words[1] == "TYPE" && isMetric(words[2]) && slices.Contains(kinds, words[3]):
			f = &family{name: words[2], kind: words[3]}
			families = append(families, f)
		case f != nil && isSample(line, f.name):
			f.samples = append(f.samples, line)
		default:
			return nil, false
		}
	}
	return nil, false // the end is missing
}

// isMetric reports whether a name is one of a TPM's metrics.
func isMetric(s string) bool {
	return strings.HasPrefix(s, "swtpm_") && !strings.HasPrefix(s, "swtpm_host_") && !strings.HasPrefix(s, "swtpm_tpm") &&
		!strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' })
}

// isSample reports whether a line is a sample of a family: a name, labels in braces, and
// one number.
func isSample(line, name string) bool {
	rest, ok := strings.CutPrefix(line, name)
	value := rest
	if i := strings.LastIndex(rest, "} "); i >= 0 {
		value = rest[i+2:]
		open := strings.Index(rest, "{")
		rest = rest[:max(open, 0)]
		ok = ok && open >= 0
	} else {
		rest, value, _ = strings.Cut(rest, " ")
	}
	_, err := strconv.ParseFloat(value, 64)
	return ok && err == nil && slices.Contains([]string{"", "_total", "_info", "_bucket", "_count", "_sum"}, rest)
}
