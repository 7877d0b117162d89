package boots

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explanation says why the guest could not open a secret.
type Explanation struct {
	OtherTPM *otherTPM     `json:"other_tpm,omitempty"`   // the last boot used another TPM
	MaybeTPM *unknownTPM   `json:"unknown_tpm,omitempty"` // whether the last boot used the same TPM is not known
	Last     uint64        `json:"last_boot"`
	Summary  string        `json:"summary"` // of the last boot
	Policies string        `json:"policies,omitempty"`
	Damaged  []uint64      `json:"damaged,omitempty"`  // boots whose record is not complete, or cannot be read
	Denied   []uint64      `json:"denied,omitempty"`   // boots whose files may not be read
	Newest   uint64        `json:"newest_boot"`        // may be one that cannot be read
	Unknown  []uint64      `json:"unknown,omitempty"`  // damaged boots after which no policy was used: whether one fails is not known
	LastUsed uint64        `json:"last_use,omitempty"` // the boot that last used a policy, if it is not the last boot
	Failures []failureLine `json:"failures"`
	More     int           `json:"more_failures,omitempty"` // policies that fail and are not in Failures
	Logs     []logLine     `json:"logs,omitempty"`
	Changes  []changeLine  `json:"changes,omitempty"`      // of the last boot, if nothing failed: the first in each PCR and NV index
	Indexes  int           `json:"more_indexes,omitempty"` // NV indexes that changed and are not in Changes
	Host     []string      `json:"host,omitempty"`
	Notes    []string      `json:"notes,omitempty"` // what limits the comparison of the last boot
}

// failureLine is a failure with names.
type failureLine struct {
	PCRs     string    `json:"pcrs"`
	Since    uint64    `json:"since_boot"`
	Time     time.Time `json:"time"`
	LastUsed uint64    `json:"last_failed_boot"`
	Good     uint64    `json:"last_good_boot,omitempty"`
	GoodTime time.Time `json:"last_good_time,omitzero"`
	Result   uint32    `json:"result"`
	Times    int       `json:"times"`
	Opened   bool      `json:"opened_before,omitempty"` // in the same boot
	Reason   string    `json:"reason,omitempty"`
	Details  []pcrLine `json:"details"`
	Host     []string  `json:"host"`
	Advice   []string  `json:"advice"`
}

// pcrLine is what differs first in a PCR.
type pcrLine struct {
	PCR   int         `json:"pcr"`
	Same  bool        `json:"same"`
	First *changeLine `json:"first,omitempty"`
	More  int         `json:"more_changes"`
}

// logLine is the check of a guest's log.
type logLine struct {
	Path    string   `json:"path"`
	Boot    uint64   `json:"boot"`
	Agrees  bool     `json:"agrees"`
	Matched int      `json:"matched"`
	After   int      `json:"after"`
	Notes   []string `json:"contradictions,omitempty"`
}

// logLine returns c with names. It lists only the first contradictions.
func (f *Files) logLine(h *History, c *LogCheck) logLine {
	const most = 20
	l := logLine{Path: c.Path, Boot: c.Boot, Agrees: c.agrees(), Matched: c.Matched, After: c.After}
	add := func(format string, args ...any) {
		if len(l.Notes) < most {
			l.Notes = append(l.Notes, fmt.Sprintf(format, args...))
		}
	}
	if c.Damage != nil {
		add("%v", c.Damage)
	}
	for _, o := range c.Only {
		add("entry %d for %s is only in the log: %s", o.Number, indexText(o.Index), oneLine(o.Text))
	}
	b, err := h.Find(c.Boot)
	for _, m := range c.Missing {
		if err == nil {
			add("%s, measurement %d, is not in the log: %v", indexText(m.Index), m.Position, f.name(h, b, m))
		}
	}
	return l
}

// Explain explains the failures of a history.
func (f *Files) Explain(h *History, logs []*LogCheck) *Explanation {
	last := h.Boots[len(h.Boots)-1]
	e := &Explanation{Last: last.Boot.Boot, Summary: h.summary(last), Policies: policyText(last), Damaged: h.Damaged, Denied: h.Denied, Newest: h.newest(), Unknown: h.unknown(), Failures: []failureLine{}}
	e.OtherTPM, e.MaybeTPM = h.otherTPM(), h.unknownTPM()
	if used := h.lastUse(); used != e.Last {
		e.LastUsed = used
	}
	for _, c := range logs {
		e.Logs = append(e.Logs, f.logLine(h, c))
	}
	failures, more := h.failures()
	e.More = more
	for _, x := range failures {
		l := f.failureLine(h, x)
		if e.OtherTPM != nil && !e.OtherTPM.Opened {
			l.Advice = []string{} // no step with the present TPM helps
		}
		e.Failures = append(e.Failures, l)
	}
	if a := h.Previous(last); len(e.Failures) == 0 && a != nil && last.Damage == nil {
		first, more := firstChanges(compare(a, last))
		d := f.diff(h, a, last, first)
		e.Indexes = more
		e.Changes, e.Host, e.Notes = d.Changes, d.Host, d.Notes
	}
	return e
}

// mostPolicies is how many policies an answer describes. A guest can use a new one with each command.
const mostPolicies = 32

// mostIndexes is how many PCRs and NV indexes an answer describes: all PCRs, which are first, and a few NV indexes. A
// guest can extend another NV index with each command.
const mostIndexes = 32

// foremost returns at most mostPolicies failures in their order, and the number of the others. Those that succeeded
// before are preferred: only they say what changed.
func foremost(all []failedPolicy) (some []failedPolicy, more int) {
	var chosen []int
	for _, good := range []bool{true, false} {
		for i := range all {
			if (all[i].Good != nil) == good && len(chosen) < mostPolicies {
				chosen = append(chosen, i)
			}
		}
	}
	slices.Sort(chosen)
	for _, i := range chosen {
		some = append(some, all[i])
	}
	return some, len(all) - len(some)
}

func (f *Files) failureLine(h *History, x failedPolicy) failureLine {
	l := failureLine{
		PCRs: selectionText(x.Banks), Since: x.Boot.Boot.Boot, Time: x.Boot.Time, LastUsed: x.Last.Boot.Boot, Result: x.Outcome.Result, Times: x.Times, Opened: x.Opened,
		Details: []pcrLine{}, Host: []string{}, Advice: x.advice(),
	}
	switch {
	case x.Unknown:
		l.Reason = afterLimit + ", so the values of the PCRs are not known: what changed cannot be said"
	case x.OtherWay:
		l.Reason = "the result is not one that PCRs cause; the policy has other conditions, too"
	case x.Good != nil && len(x.changed()) == 0:
		l.Reason = "the PCRs have the values with which it opened before; another condition of the policy is not met"
	}
	if x.Good == nil {
		return l
	}
	l.Good, l.GoodTime = x.Good.Boot.Boot, x.Good.Time
	l.Host = append(l.Host, f.hostChanges(h, x.Good, x.Boot)...)
	for _, c := range x.PCRs {
		p := pcrLine{PCR: c.PCR, Same: c.Same}
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
	if e.OtherTPM != nil {
		t.WriteString(e.OtherTPM.text())
	}
	if e.MaybeTPM != nil {
		t.WriteString(e.MaybeTPM.text())
	}
	for _, n := range e.Damaged {
		fmt.Fprintf(&t, "The record of boot %d is damaged: a failure in it may be missing here.\n", n)
	}
	for _, n := range e.Denied {
		fmt.Fprintf(&t, "The record of boot %d may not be read (permission denied): run the command as root, or as the user of the TPM.\n", n)
	}
	written := map[string]string{}
	for _, l := range e.Failures {
		l.write(&t, e.Newest, written)
		host, advice = append(host, l.Host...), append(advice, l.Advice...)
	}
	if e.More > 0 {
		fmt.Fprintf(&t, "And %s: swtpm boots show prints all uses of policies in a boot.\n\n", count(e.More, "more failure"))
	}
	section(&t, "Other changes on the host:", host)
	sortSteps(advice)
	section(&t, "Next steps:", advice)
	if len(e.Failures) == 0 {
		e.writeGood(&t)
	}
	for _, l := range e.Logs {
		l.write(&t)
	}
	return t.String()
}

// writeGood writes what happened if no policy fails, as far as is known.
func (e *Explanation) writeGood(t *strings.Builder) {
	switch {
	case e.OtherTPM != nil && !e.OtherTPM.Opened: // the first lines say what fails
	case len(e.Unknown) > 0:
		t.WriteString("It is not known whether a policy over PCRs fails: no later boot used one.\n")
	case e.LastUsed != 0:
		fmt.Fprintf(t, "No failure is recorded, but boot %d tried no secret over PCRs, as boot %d did last: the guest may have stopped before that, for example because its firmware refused to start the boot loader.\n", e.Last, e.LastUsed)
	case e.Policies == "":
		t.WriteString("No failure is recorded: no recorded boot tried a secret over PCRs.\n")
	default:
		t.WriteString("No policy over PCRs fails.\n")
	}
	which := "the last one"
	if e.Newest > e.Last {
		which = "the last one that can be read"
	}
	fmt.Fprintf(t, "Boot %d, %s: %s.\n", e.Last, which, join("; ", e.Summary, e.Policies))
	for _, c := range e.Changes {
		c.write(t, "  ")
		if c.More > 0 {
			fmt.Fprintf(t, "    and %s in %s\n", count(c.More, "more change"), indexText(c.Index))
		}
	}
	if e.Indexes > 0 {
		fmt.Fprintf(t, "  And changes in %d more of the NV indexes: swtpm boots diff prints all changes.\n", e.Indexes)
	}
	for _, s := range e.Host {
		fmt.Fprintf(t, "  Host: %s\n", oneLine(s))
	}
	for _, s := range e.Notes {
		fmt.Fprintf(t, "  Note: %s\n", s)
	}
}

// write writes the failure. It writes each change of a PCR only once: written maps the changes that
// were written to the PCRs of the failure for which they were written first.
func (l failureLine) write(t *strings.Builder, last uint64, written map[string]string) {
	fmt.Fprintf(t, "Unsealing over %s has failed since boot %d (%s).\n", l.PCRs, l.Since, stamp(l.Time))
	if l.Opened {
		t.WriteString("  It had opened before in the same boot, so the guest had its secret.\n")
	} else if l.Good != 0 {
		fmt.Fprintf(t, "  It last succeeded in boot %d (%s).\n", l.Good, stamp(l.GoodTime))
	} else {
		t.WriteString("  No recorded boot succeeded.\n")
	}
	if l.Times == 1 {
		fmt.Fprintf(t, "  One failure: %s.\n", resultText(l.Result))
	} else {
		fmt.Fprintf(t, "  %d failures, the first one: %s.\n", l.Times, resultText(l.Result))
	}
	if l.LastUsed != last {
		fmt.Fprintf(t, "  It was last tried in boot %d; the last boot is %d.\n", l.LastUsed, last)
	}
	if l.Reason != "" {
		fmt.Fprintf(t, "  Note: %s.\n", l.Reason)
	}
	for _, p := range l.Details {
		l.writePCR(t, p, written)
	}
	t.WriteString("\n")
}

func (l failureLine) writePCR(t *strings.Builder, p pcrLine, written map[string]string) {
	switch {
	case p.Same:
		fmt.Fprintf(t, "\n  PCR %d: the same value as in boot %d\n", p.PCR, l.Good)
		return
	case p.First == nil:
		fmt.Fprintf(t, "\n  PCR %d: another value, and no recorded measurement explains it\n", p.PCR)
		return
	}
	var c strings.Builder
	p.First.write(&c, "  ")
	if p.More > 0 {
		fmt.Fprintf(&c, "    and %s in this PCR\n", count(p.More, "more change"))
	}
	text := fmt.Sprintf("%d to %d: %s", l.Good, l.Since, c.String())
	if before := written[text]; before != "" {
		fmt.Fprintf(t, "\n  PCR %d: changed as above, for %s\n", p.PCR, before)
		return
	}
	written[text] = l.PCRs
	t.WriteString("\n" + c.String())
}

// section writes each of the lines once below a title.
func section(t *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(t, title)
	for i, s := range lines {
		if slices.Index(lines, s) == i {
			fmt.Fprintf(t, "  * %s\n", oneLine(s))
		}
	}
	t.WriteString("\n")
}

func (l logLine) write(t *strings.Builder) {
	path := oneLine(l.Path)
	if l.Agrees {
		fmt.Fprintf(t, "Log %s: agrees with boot %d: %s; %d more followed after its end.\n", path, l.Boot, count(l.Matched, "measurement"), l.After)
		return
	}
	fmt.Fprintf(t, "Log %s: contradicts boot %d, which fits best (%s). The log is not complete, or has false entries:\n", path, l.Boot, count(l.Matched, "common measurement"))
	for _, s := range l.Notes {
		fmt.Fprintf(t, "  %s\n", s)
	}
}
