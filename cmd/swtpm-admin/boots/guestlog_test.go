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

func TestLyingLogs(t *testing.T) {
	log := realLog(t)
	b := history(t, record(1, later(log)).end()).Boots[0]
	if c := CheckLog(b, log); !c.Agrees() || c.Matched != 35 || c.After != 4 {
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
		if c := CheckLog(b, parsed); c.Agrees() {
			t.Errorf("%s: not detected", name)
		} else {
			detected++
		}
	}
	t.Logf("%d of %d lying logs detected", detected, len(all))
}

// A log names measurements only where it agrees, its texts cannot control a terminal after
// escaping, and the best boot is found.
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
	if err != nil || c.Boot != 1 || c.Agrees() || c.Matched != 34 || len(c.Only) != 1 || len(c.Missing) != 1 {
		t.Fatalf("%+v, %v", c, err)
	}
	text := f.Explain(h, []*LogCheck{c}).Text()
	for _, want := range []string{"contradicts boot 1", "entry 4 for PCR 7 is only in the log", "PCR 7, measurement 1, is not in the log: Secure Boot off"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
	names := map[Source]int{}
	b := h.Boots[0]
	for i := range b.Measurements {
		names[f.Name(h, b, &b.Measurements[i]).Source]++
	}
	if names[Unknown] != 0 || names[FromLog] == 0 || names[FromLogData] == 0 {
		t.Errorf("sources of names: %v", names)
	}
}

// systemd's log has only what systemd measured.
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
		if c := CheckLog(b, entries); c.Agrees() != r.agrees {
			t.Errorf("%v: %+v", r.phases, c)
		}
	}
}
