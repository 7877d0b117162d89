package boots

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/ledger"
)

// Formats are the formats of an export.
var Formats = []string{"cel-json", "cel-tlv", "tcg2", "yaml"}

// Export returns the measurements of a boot as a log. The warnings are reasons for which a reader
// of the log computes other values than the TPM has. The log contains content only if the content
// has the digest that was measured.
func (f *Files) Export(h *History, b *Boot, format string) (out []byte, warnings []string, err error) {
	if b.Joined {
		lacks := "its beginning is not recorded; a TCG log cannot start with other values than zero"
		if at := b.joinedAt(); at > 1 {
			lacks = fmt.Sprintf("measurements before record %d are missing; a TCG log needs all", at)
		}
		if format == "tcg2" {
			return nil, nil, fmt.Errorf("boot %d: %s", b.Boot.Boot, lacks)
		}
		warnings = append(warnings, "measurements of the boot are not recorded: a replay gives other values")
	}
	switch {
	case b.Incomplete(0):
		if format == "tcg2" {
			return nil, nil, fmt.Errorf("boot %d: %s, and no record has the values of the PCRs; export it when the boot has ended, or in another format", b.Boot.Boot, afterLimit)
		}
		warnings = append(warnings, afterLimit+", and their number and the values of the PCRs are not known")
	case b.Missing > 0:
		warnings = append(warnings, fmt.Sprintf("%d measurements after the limit of records are missing: a replay of their PCRs gives other values", b.Missing))
	}
	entries := f.entries(b)
	switch format {
	case "cel-json":
		out, err = eventlog.CELJSON(entries)
		return append(out, '\n'), warnings, err
	case "cel-tlv":
		return eventlog.AppendCELTLV(nil, entries), warnings, nil
	case "tcg2":
		var algs []ledger.Alg
		for _, bank := range b.Final.Banks() {
			algs = append(algs, bank.Alg)
		}
		return eventlog.AppendTCG(nil, algs, b.Locality, pcrEntries(entries, algs)), warnings, nil
	case "yaml":
		return f.yaml(h, b), warnings, nil
	}
	return nil, nil, fmt.Errorf("unknown format %q; use one of %s", format, strings.Join(Formats, ", "))
}

// entries returns the measurements of a boot since the last reset of their PCR.
func (f *Files) entries(b *Boot) []eventlog.Entry {
	begin := map[uint32]int{}
	for i := range b.Measurements {
		if m := &b.Measurements[i]; m.Position == 1 {
			begin[m.Index] = m.Record
		}
	}
	var all []eventlog.Entry
	for i := range b.Measurements {
		m := &b.Measurements[i]
		if m.Record < begin[m.Index] {
			continue
		}
		e := eventlog.PlainEntry(m.Index, m.Digests)
		if n, ok := f.lookup(m); ok && n.kind != 0 && isContent(m, n.data) {
			e.Type, e.Data = n.kind, n.data
		}
		all = append(all, e)
	}
	return all
}

// pcrEntries returns the entries that changed a PCR of the banks algs, with the digests of these
// banks only: firmware also measures for banks that the TPM does not have, and the header of a
// TCG log must list every algorithm in it.
func pcrEntries(entries []eventlog.Entry, algs []ledger.Alg) (pcrs []eventlog.Entry) {
	for _, e := range entries {
		e.Digests = slices.DeleteFunc(slices.Clone(e.Digests), func(d ledger.Digest) bool { return !slices.Contains(algs, d.Alg) })
		if e.Index < ledger.PCRs && len(e.Digests) > 0 {
			pcrs = append(pcrs, e)
		}
	}
	return pcrs
}

// isContent reports whether all digests of a measurement are those of data.
func isContent(m *measurement, data []byte) bool {
	for _, d := range m.Digests {
		if !bytes.Equal(eventlog.Sum(d.Alg, data), d.Value) {
			return false
		}
	}
	return len(m.Digests) > 0
}

// yaml returns a boot in YAML. Texts are quoted as in JSON, which YAML includes.
func (f *Files) yaml(h *History, b *Boot) []byte {
	var s strings.Builder
	fmt.Fprintf(&s, "---\nboot: %d\ntime: %q\ntpm: %q\nidentity: %q\nengine: %s\njoined: %t\nincomplete: %t\ndamaged: %t\nevents:\n",
		b.Boot.Boot, b.Time.Format("2006-01-02T15:04:05Z"), b.TPM.String(), hex.EncodeToString(b.Identity[:]), quote(b.Engine), b.Joined, b.Incomplete(0), b.Damage != nil)
	for i := range b.Measurements {
		m := &b.Measurements[i]
		n := f.name(h, b, m)
		index := "pcr"
		if m.isNV() {
			index = "nv_index"
		}
		fmt.Fprintf(&s, "- record: %d\n  %s: %d\n  position: %d\n  name: %s\n  certainty: %s\n  digests:\n", m.Record, index, m.Index, m.Position, quote(n.Text), quote(n.Source.String()))
		for _, d := range m.Digests {
			fmt.Fprintf(&s, "    %v: \"%x\"\n", d.Alg, d.Value)
		}
	}
	s.WriteString("pcrs:\n")
	for _, bank := range b.finalBanks() {
		fmt.Fprintf(&s, "  %v:\n", bank.Alg)
		for pcr := range ledger.PCRs {
			if v := bank.Value(pcr); v != nil {
				fmt.Fprintf(&s, "    %d: \"%x\"\n", pcr, v)
			}
		}
	}
	return []byte(s.String())
}
