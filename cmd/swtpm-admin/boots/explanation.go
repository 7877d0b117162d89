package boots

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explanation says why the guest could not open a secret.
type Explanation struct {
	Last     uint64        `json:"last_boot"`
	Summary  string        `json:"summary"` // of the last boot
	Policies string        `json:"policies,omitempty"`
	Damaged  []uint64      `json:"damaged,omitempty"` // boots whose record is not complete, or cannot be read
	Unknown  []uint64      `json:"unknown,omitempty"` // damaged boots after which no policy was used: whether one fails is not known
	Failures []FailureLine `json:"failures"`
	Logs     []LogLine     `json:"logs,omitempty"`
	Changes  []ChangeLine  `json:"changes,omitempty"` // of the last boot, if nothing failed
	Host     []string      `json:"host,omitempty"`
}

// FailureLine is a failure with names.
type FailureLine struct {
	PCRs    string    `json:"pcrs"`
	Since   uint64    `json:"since_boot"`
	Time    time.Time `json:"time"`
	Good    uint64    `json:"last_good_boot,omitempty"`
	Result  uint32    `json:"result"`
	Times   int       `json:"times"`
	Reason  string    `json:"reason,omitempty"`
	Details []PCRLine `json:"details"`
	Host    []string  `json:"host"`
	Advice  []string  `json:"advice"`
}

// PCRLine is what differs first in a PCR.
type PCRLine struct {
	PCR   int         `json:"pcr"`
	Same  bool        `json:"same"`
	First *ChangeLine `json:"first,omitempty"`
	More  int         `json:"more_changes"`
}

// LogLine is the check of a guest's log.
type LogLine struct {
	Path    string   `json:"path"`
	Boot    uint64   `json:"boot"`
	Agrees  bool     `json:"agrees"`
	Matched int      `json:"matched"`
	After   int      `json:"after"`
	Notes   []string `json:"contradictions,omitempty"`
}

// Line returns c with names; at most some contradictions are listed.
func (f *Files) logLine(h *History, c *LogCheck) LogLine {
	const most = 20
	l := LogLine{Path: c.Path, Boot: c.Boot, Agrees: c.Agrees(), Matched: c.Matched, After: c.After}
	add := func(format string, args ...any) {
		if len(l.Notes) < most {
			l.Notes = append(l.Notes, fmt.Sprintf(format, args...))
		}
	}
	if c.Damage != nil {
		add("%v", c.Damage)
	}
	for _, o := range c.Only {
		add("entry %d for %s is only in the log: %s", o.Number, indexText(o.Index), o.Text)
	}
	b, err := h.Find(c.Boot)
	for _, m := range c.Missing {
		if err == nil {
			add("%s, measurement %d, is not in the log: %v", indexText(m.Index), m.Place, f.Name(h, b, m))
		}
	}
	return l
}

// Explain explains the failures of a history.
func (f *Files) Explain(h *History, logs []*LogCheck) *Explanation {
	last := h.Boots[len(h.Boots)-1]
	e := &Explanation{Last: last.Boot.Boot, Summary: h.Summary(last), Policies: policyText(last), Damaged: h.Damaged, Unknown: h.Unknown(), Failures: []FailureLine{}}
	for _, c := range logs {
		e.Logs = append(e.Logs, f.logLine(h, c))
	}
	for _, x := range h.Failures() {
		e.Failures = append(e.Failures, f.failureLine(h, x))
	}
	if a := h.Previous(last); len(e.Failures) == 0 && a != nil && last.Damage == nil {
		d := f.Diff(h, a, last)
		e.Changes, e.Host = d.Changes, d.Host
	}
	return e
}

func (f *Files) failureLine(h *History, x Failure) FailureLine {
	l := FailureLine{
		PCRs: selectionText(x.Banks), Since: x.Boot.Boot.Boot, Time: x.Boot.Time, Result: x.Outcome.Result, Times: x.Times,
		Details: []PCRLine{}, Host: []string{}, Advice: x.Advice(),
	}
	switch {
	case x.OtherWay:
		l.Reason = "the result is not one that PCRs cause; the policy has other conditions, too"
	case x.Good != nil && len(x.Changed()) == 0:
		l.Reason = "the PCRs have the values with which it opened before; another condition of the policy is not met"
	}
	if x.Good == nil {
		return l
	}
	l.Good = x.Good.Boot.Boot
	l.Host = append(l.Host, HostChanges(x.Good, x.Boot, f.Host)...)
	for _, c := range x.PCRs {
		p := PCRLine{PCR: c.PCR, Same: c.Same}
		if len(c.Changes) > 0 {
			first := f.change(h, x.Good, x.Boot, c.Changes[0])
			p.First, p.More = &first, len(c.Changes)-1
		}
		l.Details = append(l.Details, p)
	}
	return l
}

// Text returns e for people.
func (e *Explanation) Text() string {
	var t strings.Builder
	var host, advice []string
	for _, n := range e.Damaged {
		fmt.Fprintf(&t, "The record of boot %d is damaged: a failure in it may be missing here.\n", n)
	}
	for _, l := range e.Failures {
		l.write(&t)
		host, advice = append(host, l.Host...), append(advice, l.Advice...)
	}
	section(&t, "Other changes on the host:", host)
	section(&t, "Next steps:", advice)
	if len(e.Failures) == 0 {
		if len(e.Unknown) > 0 {
			t.WriteString("It is not known whether a policy over PCRs fails: no later boot used one. ")
		} else {
			t.WriteString("No policy over PCRs fails. ")
		}
		fmt.Fprintf(&t, "Boot %d, the last one: %s.\n", e.Last, join("; ", e.Summary, e.Policies))
		for _, c := range e.Changes {
			c.write(&t, "  ")
		}
		for _, s := range e.Host {
			fmt.Fprintf(&t, "  Host: %s\n", s)
		}
	}
	for _, l := range e.Logs {
		l.write(&t)
	}
	return t.String()
}

func (l FailureLine) write(t *strings.Builder) {
	first := ""
	if l.Times > 1 {
		first = "first: "
	}
	fmt.Fprintf(t, "Unsealing over %s fails since boot %d (%s), %s, %s%s.\n", l.PCRs, l.Since, stamp(l.Time), count(l.Times, "time"), first, resultText(l.Result))
	if l.Good != 0 {
		fmt.Fprintf(t, "It last succeeded in boot %d.\n", l.Good)
	} else {
		t.WriteString("No recorded boot succeeded.\n")
	}
	if l.Reason != "" {
		fmt.Fprintf(t, "Note: %s.\n", l.Reason)
	}
	for _, p := range l.Details {
		switch {
		case p.Same:
			fmt.Fprintf(t, "\n  PCR %d: the same value as in boot %d\n", p.PCR, l.Good)
		case p.First == nil:
			fmt.Fprintf(t, "\n  PCR %d: another value, and no recorded measurement explains it\n", p.PCR)
		default:
			t.WriteString("\n")
			p.First.write(t, "  ")
			if p.More > 0 {
				fmt.Fprintf(t, "    and %s in this PCR\n", count(p.More, "more change"))
			}
		}
	}
	t.WriteString("\n")
}

// section writes each of the lines once below a title.
func section(t *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(t, title)
	for i, s := range lines {
		if slices.Index(lines, s) == i {
			fmt.Fprintf(t, "  %s\n", s)
		}
	}
	t.WriteString("\n")
}

func (l LogLine) write(t *strings.Builder) {
	if l.Agrees {
		fmt.Fprintf(t, "Log %s: agrees with boot %d: %s, %d later.\n", l.Path, l.Boot, count(l.Matched, "measurement"), l.After)
		return
	}
	fmt.Fprintf(t, "Log %s: contradicts boot %d, which fits best (%s). The log is not complete, or it lies:\n", l.Path, l.Boot, count(l.Matched, "common measurement"))
	for _, s := range l.Notes {
		fmt.Fprintf(t, "  %s\n", s)
	}
}
