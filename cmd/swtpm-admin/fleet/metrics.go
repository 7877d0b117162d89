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

// set adds a sample. labels are pairs of a name and a value.
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

// escapeLabel returns s for the value of a label: valid UTF-8 with escaped quotes, backslashes and
// newlines.
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
	// The first TPM determines the kind of a metric, so TPMs that no ordinary user could start
	// come first.
	sorted := slices.Clone(tpms)
	slices.SortStableFunc(sorted, func(a, b TPM) int { return a.rank() - b.rank() })
	for _, t := range sorted {
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
	for _, s := range []string{stateRunning, stateStarting, stateStopped, stateFailed, stateUnproved} {
		f.set("", float64(states[s]), "state", s)
	}
	f = e.add("swtpm_host_restart_tpms", "gauge", "", "Number of TPMs by whether they need a restart because a library was replaced.")
	for _, s := range []string{RestartNotNeeded, RestartNeeded, RestartUnknown} {
		f.set("", float64(restart[s]), "restart", s)
	}
	e.add("swtpm_host_sources_failed", "gauge", "", "Number of sources of facts that did not answer.").set("", float64(len(notes)))
	e.add("swtpm_host_collection_seconds", "gauge", "seconds", "Time that the collection took.").set("", took.Seconds())
}

// facts adds the facts of the list about a TPM.
func (e *exposition) facts(t *TPM) {
	name := []string{"name", t.Name}
	e.add("swtpm_tpm", "info", "", "The TPMs of this host.").set("_info", 1, "name", t.Name, "vm", t.VM, "manager", t.Manager, "tpm", t.Version,
		"encryption", t.Encryption, "libtpms", t.Libtpms.version(), "sandbox", t.Sandbox, "pid", strconv.Itoa(t.PID))
	e.add("swtpm_tpm_up", "gauge", "", "Whether the TPM runs.").set("", bit(t.State == stateRunning), name...)
	e.add("swtpm_tpm_failed", "gauge", "", "Whether the unit of the TPM failed.").set("", bit(t.State == stateFailed), name...)
	if t.Restart != RestartUnknown {
		e.add("swtpm_tpm_restart_needed", "gauge", "", "Whether the TPM runs a library or program that was replaced.").set("", bit(t.Restart == RestartNeeded), name...)
	}
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
	if o := t.Owner; o != nil {
		e.add("swtpm_tpm_store", "info", "", "TPMs in the cluster store: name of the state, and the host that owns it.").set("_info", 1, "name", t.Name, "location", t.Location, "owner", o.Host)
		e.add("swtpm_tpm_store_owned", "gauge", "", "Whether this host owns the state in the cluster store.").set("", bit(o.Here), name...)
		e.add("swtpm_tpm_store_epoch", "gauge", "", "How often the state in the cluster store was acquired, by any host.").set("", float64(o.Epoch), name...)
	}
}

// version returns the version of the loaded library, or of the installed one if the loaded one is
// unknown.
func (l *loadedFile) version() string {
	if l == nil {
		return ""
	}
	return versionOf(cmp.Or(l.Loaded, l.Installed))
}

func bit(b bool) float64 { return map[bool]float64{true: 1}[b] }

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
