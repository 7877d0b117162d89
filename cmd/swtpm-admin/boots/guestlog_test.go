package boots

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/ledger"
)

func clone(all []eventlog.Entry) []eventlog.Entry { return slices.Clone(all) }

// lies are real logs that were changed: an entry is missing, was added, or has a wrong
// digest in one bank or in all of them.
func lies(log []eventlog.Entry) map[string][]eventlog.Entry {
	all := map[string][]eventlog.Entry{}
	for _, at := range []int{0, 2, 5, 14, 21, 32, len(log) - 1} {
		all[fmt.Sprintf("entry %d is missing", at)] = slices.Delete(clone(log), at, at+1)
	}
	for i, at := range []int{0, 9, 22, 35} {
		e := replaced(log, 0, []byte{byte(i)})[0]
		e.Index = uint32([]int{0, 7, 11, 4}[i])
		all[fmt.Sprintf("an entry was added at %d", at)] = slices.Insert(clone(log), at, e)
	}
	all["an entry is there twice"] = slices.Insert(clone(log), 4, log[3])
	for _, at := range []int{1, 3, 8, 12, 21, 31, 34} {
		all[fmt.Sprintf("entry %d has other digests", at)] = replaced(log, at, []byte("other"))
	}
	for bank := range 4 {
		one := clone(log)
		one[7].Digests = slices.Clone(one[7].Digests)
		one[7].Digests[bank].Value = make([]byte, one[7].Digests[bank].Alg.Size())
		all[fmt.Sprintf("one digest of bank %d is wrong", bank)] = one
	}
	swapped := clone(log)
	swapped[3], swapped[4] = swapped[4], swapped[3]
	all["two entries of PCR 7 changed places"] = swapped
	other := clone(log)
	other[3].Index = 6
	all["an entry is of another PCR"] = other
	return all
}

// later is what the system measures after the firmware's log ends.
func later(log []eventlog.Entry) []eventlog.Entry {
	all := clone(log)
	for i, phase := range phases[:4] {
		e := replaced(log, i, []byte(phase))[i]
		e.Index = 11
		all = append(all, e)
	}
	return all
}

// TestLyingLogs checks that a true log agrees with the ledger, and that each of many false logs
// does not.
func TestLyingLogs(t *testing.T) {
	log := realLog(t)
	b := history(t, record(1, later(log)).end()).Boots[0]
	if c := checkLog(b, log); !c.agrees() || c.Matched != 35 || c.After != 4 {
		t.Fatalf("the true log: %+v", c)
	}
	all := lies(log)
	if len(all) < 20 {
		t.Fatalf("%d lies, want at least 20", len(all))
	}
	detected := 0
	for name, lie := range all {
		// It is written and read, as a guest's file is.
		parsed, err := eventlog.ParseTCG(eventlog.AppendTCG(nil, banks, 0, lie))
		if err != nil || len(parsed) != len(lie) {
			t.Fatalf("%s: %v", name, err)
		}
		if c := checkLog(b, parsed); c.agrees() {
			t.Errorf("%s: not detected", name)
		} else {
			detected++
		}
	}
	t.Logf("%d of %d lying logs detected", detected, len(all))
}

// TestAddGuestLog checks that a log names measurements only where it agrees, that its texts are
// escaped, and that the boot that it fits best is found.
func TestAddGuestLog(t *testing.T) {
	log := realLog(t)
	h := history(t, record(1, log).end(), record(2, replaced(log, 21, []byte("other image"))).end())
	path := filepath.Join(t.TempDir(), "log")
	lie := replaced(log, 3, []byte("lie"))
	if err := os.WriteFile(path, eventlog.AppendTCG(nil, banks, 0, lie), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFiles()
	c, err := f.AddGuestLog(h, path)
	if err != nil || c.Boot != 1 || c.agrees() || c.Matched != 34 || len(c.Only) != 1 || len(c.Missing) != 1 {
		t.Fatalf("%+v, %v", c, err)
	}
	text := f.Explain(h, []*LogCheck{c}).Text()
	for _, want := range []string{"contradicts boot 1", "entry 4 for PCR 7 is only in the log", "PCR 7, measurement 1, is not in the log: Secure Boot off"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	names := map[nameSource]int{}
	b := h.Boots[0]
	for i := range b.Measurements {
		names[f.name(h, b, &b.Measurements[i]).Source]++
	}
	if names[unknownSource] != 0 || names[fromLog] == 0 || names[fromConstant] == 0 {
		t.Errorf("sources of names: %v", names)
	}
}

// TestGuestLogNames checks that only the text that was measured is certain in a log of the guest: not the
// name of a boot variable, of which firmware measures the content, not the path of an image, and not
// what stands around the content. The text after a zero was measured, and is shown.
func TestGuestLogNames(t *testing.T) {
	variable := eventlog.Variable{Name: "Boot0007 (signed)", Vendor: eventlog.GlobalVariable, Data: []byte("junk")}.Measured()
	hidden := []byte("root=/dev/vda1 lockdown=on\x00 lockdown=none")
	wide := append(eventlog.EncodeUTF16("ééééé"), 0, 0)
	wide = append(wide, eventlog.EncodeUTF16("evil")...)
	sum := func(data []byte) (all []ledger.Digest) {
		for _, alg := range banks {
			all = append(all, ledger.Digest{Alg: alg, Value: eventlog.Sum(alg, data)})
		}
		return all
	}
	visible := func(s string) string { return strings.ReplaceAll(s, "\x00", "") }
	for name, x := range map[string]struct {
		e    eventlog.Entry
		want nameSource
		has  string
	}{
		"text":           {eventlog.Entry{Index: 8, Type: eventlog.IPL, Digests: sum([]byte("text")), Data: []byte("text")}, fromLogData, "text"},
		"hidden text":    {eventlog.Entry{Index: 8, Type: eventlog.IPL, Digests: sum(hidden), Data: hidden}, fromLogData, "lockdown=none"},
		"hidden UTF-16":  {eventlog.Entry{Index: 8, Type: eventlog.IPL, Digests: sum(wide), Data: wide}, fromLogData, "evil"},
		"image":          {eventlog.Entry{Index: 4, Type: eventlog.BootApplication, Digests: sum(variable), Data: variable}, fromLog, ""},
		"content alone":  {eventlog.Entry{Index: 1, Type: eventlog.VariableBoot, Digests: sum([]byte("junk")), Data: variable}, fromLog, "Boot0007"},
		"whole variable": {eventlog.Entry{Index: 1, Type: eventlog.VariableBoot, Digests: sum(variable), Data: variable}, fromLogData, "Boot0007"},
	} {
		log := []eventlog.Entry{x.e}
		h := history(t, record(1, log).end())
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, eventlog.AppendTCG(nil, banks, 0, log), 0o600); err != nil {
			t.Fatal(err)
		}
		f := newFiles()
		if _, err := f.AddGuestLog(h, path); err != nil {
			t.Fatal(err)
		}
		if n := f.name(h, h.Boots[0], &h.Boots[0].Measurements[0]); n.Source != x.want || !strings.Contains(visible(n.Text), x.has) {
			t.Errorf("%s: %q, %v, want %q, %v", name, n.Text, n.Source, x.has, x.want)
		}
	}
	around := fmt.Sprintf(`{"pcr":7,"digests":[{"hashAlg":"sha256","digest":"%x"}],"content_type":"Secure Boot is on","content":{"string":"x","eventType":"signed"}}`,
		eventlog.Sum(ledger.SHA256, []byte("x")))
	entries, err := eventlog.Parse([]byte(around))
	if err != nil || len(entries) != 1 || entries[0].Text != "x" || !entries[0].Verified() {
		t.Errorf("%+v, %v, want the text x", entries, err)
	}
}

// TestOtherBank checks that a measurement whose banks have the digests of different contents has no name
// that is certain.
func TestOtherBank(t *testing.T) {
	log := realLog(t)
	for bank := range banks {
		mixed := clone(log[3:4])
		mixed[0].Digests = slices.Clone(mixed[0].Digests)
		mixed[0].Digests[bank].Value = make([]byte, mixed[0].Digests[bank].Alg.Size())
		h := history(t, record(1, log[3:4]).end(), record(2, mixed).end())
		f := newFiles()
		if n, ok := f.lookup(&h.Boots[0].Measurements[0]); !ok || n.Source != fromConstant {
			t.Fatalf("equal contents: %+v", n)
		}
		if n, ok := f.lookup(&h.Boots[1].Measurements[0]); ok {
			t.Errorf("another content in bank %v: %+v", banks[bank], n)
		}
	}
}

// TestMeasureLog checks that systemd's log names only what systemd measured.
func TestMeasureLog(t *testing.T) {
	log := realLog(t)
	b := history(t, record(1, later(log)).end()).Boots[0]
	line := func(phase string) string {
		return fmt.Sprintf("\x1e{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\"%x\"}],\"content_type\":\"systemd\",\"content\":{\"string\":%q,\"eventType\":\"phase\"}}\n",
			eventlog.Sum(ledger.SHA256, []byte(phase)), phase)
	}
	for _, r := range []struct {
		phases []string
		agrees bool
	}{
		{phases[:4], true},
		{[]string{"enter-initrd", "sysinit"}, false},
		{[]string{"enter-initrd", "leave-initrd", "sysinit", "ready", "final"}, false},
	} {
		var text strings.Builder
		for _, p := range r.phases {
			text.WriteString(line(p))
		}
		entries, err := eventlog.Parse([]byte(text.String()))
		if err != nil || len(entries) != len(r.phases) {
			t.Fatalf("%v: %d entries, %v", r.phases, len(entries), err)
		}
		if c := checkLog(b, entries); c.agrees() != r.agrees {
			t.Errorf("%v: %+v", r.phases, c)
		}
	}
}
