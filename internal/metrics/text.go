package metrics

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Sample holds the numbers of a TPM at one moment.
type Sample struct {
	Version  string // of this program
	Library  string // libtpms's version
	TPM      string // "1.2" or "2.0"
	Instance string // of the profile; "" without one

	On       bool
	Waiting  bool // a command waits until its effect can be stored
	Waits    uint64
	Refused  uint64    // commands whose effect could not be stored
	Started  time.Time // the process
	Now      time.Time
	Commands []Command
	Latency  Durations // of the commands, in the engine
	Stores   []Stores
	Limited  uint64 // commands that were refused because of too many stores
	Channels []Channel
	Policies *Policies // nil if they are not recorded
}

// Policies are the failures of policies over PCRs.
type Policies struct {
	Failures uint64
	PCRs     [24]uint64 // failures of policies that contain this PCR
}

// Command counts how often a command returned a response code.
type Command struct {
	Name   string // as TPM2_GetRandom; "" if it has none
	Code   string // such as 0x17b; "other" for codes without a count of their own
	Result uint32
	Count  uint64
}

// Stores counts the stores of one item of the state.
type Stores struct {
	Item     string
	Took     Durations // failed stores included
	Failures uint64
}

// Channel describes the clients of one channel.
type Channel struct {
	Name        string
	Clients     int
	Connections uint64 // since the start, connected clients included
}

// ContentType is the HTTP content type of the text.
const ContentType = "application/openmetrics-text; version=1.0.0; charset=utf-8"

// Text returns s as OpenMetrics text.
//
// Source: OpenMetrics 1.0.0, Text Format.
func (s *Sample) Text() []byte {
	var w writer
	w.family("swtpm_build", "info", "", "Versions of swtpm-go, libtpms and the TPM.")
	w.sample("swtpm_build_info", labels{"version", s.Version, "libtpms", s.Library, "tpm", s.TPM, "instance", s.Instance}, "1")
	w.family("swtpm_uptime_seconds", "gauge", "seconds", "How long the process has been running.")
	w.sample("swtpm_uptime_seconds", nil, float(s.Now.Sub(s.Started).Seconds()))
	w.family("swtpm_on", "gauge", "", "Whether the TPM has power.")
	w.sample("swtpm_on", nil, map[bool]string{false: "0", true: "1"}[s.On])
	w.commands(s.Commands)
	w.family("swtpm_command_duration_seconds", "histogram", "seconds", "How long commands took in the TPM, with the stores of their state.")
	w.durations("swtpm_command_duration_seconds", nil, s.Latency)
	w.family("swtpm_store_duration_seconds", "histogram", "seconds", "How long items of the state took to be stored.")
	for _, i := range s.Stores {
		w.durations("swtpm_store_duration_seconds", labels{"item", i.Item}, i.Took)
	}
	w.family("swtpm_store_failures", "counter", "", "Items of the state that could not be stored.")
	for _, i := range s.Stores {
		w.sample("swtpm_store_failures_total", labels{"item", i.Item}, count(i.Failures))
	}
	w.family("swtpm_store_waiting", "gauge", "", "Whether a command waits for space on the disk.")
	w.sample("swtpm_store_waiting", nil, map[bool]string{false: "0", true: "1"}[s.Waiting])
	w.family("swtpm_store_waits", "counter", "", "Commands that had to wait for space on the disk.")
	w.sample("swtpm_store_waits_total", nil, count(s.Waits))
	w.family("swtpm_commands_refused", "counter", "", "Commands that were refused and undone because their effect could not be stored.")
	w.sample("swtpm_commands_refused_total", nil, count(s.Refused))
	w.family("swtpm_limited_commands", "counter", "", "Commands that were refused because the state was stored too often.")
	w.sample("swtpm_limited_commands_total", nil, count(s.Limited))
	w.family("swtpm_clients", "gauge", "", "Clients that are connected.")
	for _, c := range s.Channels {
		w.sample("swtpm_clients", labels{"channel", c.Name}, strconv.Itoa(c.Clients))
	}
	w.family("swtpm_connections", "counter", "", "Clients that have connected.")
	for _, c := range s.Channels {
		w.sample("swtpm_connections_total", labels{"channel", c.Name}, count(c.Connections))
	}
	w.policies(s.Policies)
	w.WriteString("# EOF\n")
	return []byte(w.String())
}

// policies writes the failures of policies, if they are recorded.
func (w *writer) policies(p *Policies) {
	if p == nil {
		return
	}
	w.family("swtpm_policy_failures", "counter", "", "Policies over PCRs that were not fulfilled: a command failed, or the guest gave up.")
	w.sample("swtpm_policy_failures_total", nil, count(p.Failures))
	w.family("swtpm_pcr_policy_failures", "counter", "", "The same policies, for each PCR that they contain.")
	for pcr, n := range p.PCRs {
		if n > 0 {
			w.sample("swtpm_pcr_policy_failures_total", labels{"pcr", strconv.Itoa(pcr)}, count(n))
		}
	}
}

// writer writes the text.
type writer struct{ strings.Builder }

// labels are names, each followed by its value.
type labels []string

func (w *writer) family(name, kind, unit, help string) {
	fmt.Fprintf(w, "# TYPE %s %s\n", name, kind)
	if unit != "" {
		fmt.Fprintf(w, "# UNIT %s %s\n", name, unit)
	}
	fmt.Fprintf(w, "# HELP %s %s\n", name, help)
}

func (w *writer) sample(name string, l labels, value string) {
	w.WriteString(name)
	sep := "{"
	for i := 0; i < len(l); i += 2 {
		fmt.Fprintf(w, `%s%s="%s"`, sep, l[i], escape.Replace(l[i+1]))
		sep = ","
	}
	if len(l) > 0 {
		w.WriteString("}")
	}
	w.WriteString(" " + value + "\n")
}

// escape returns the escaped value of a label.
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (w *writer) commands(all []Command) {
	w.family("swtpm_commands", "counter", "", "Commands that the TPM ran, by the result in their response.")
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b Command) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Result, b.Result))
	})
	for _, c := range all {
		w.sample("swtpm_commands_total",
			labels{"command", c.Name, "code", c.Code, "result", fmt.Sprintf("0x%x", c.Result)}, count(c.Count))
	}
}

// durations writes a histogram. The count is the sum of the buckets as they are written;
// the sum of the durations may already include later ones.
func (w *writer) durations(name string, l labels, d Durations) {
	var n uint64
	for i, b := range d.Buckets {
		n += b
		le := "+Inf"
		if i < len(Bounds) {
			le = float(Bounds[i].Seconds())
		}
		w.sample(name+"_bucket", append(slices.Clone(l), "le", le), count(n))
	}
	w.sample(name+"_count", l, count(n))
	w.sample(name+"_sum", l, float(d.Sum.Seconds()))
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }

// float returns a number in the form that OpenMetrics requires for the bound of a bucket:
// with a point or an exponent.
func float(f float64) string {
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if strings.ContainsAny(s, ".e") {
		return s
	}
	return s + ".0"
}
