package boots

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// realLog is the log of a boot: OVMF 2022.11 with a unified kernel image of systemd-stub
// 252 and Linux 6.1, in QEMU.
func realLog(t testing.TB) []eventlog.Entry {
	t.Helper()
	b, err := os.ReadFile("testdata/ovmf.log")
	if err != nil {
		t.Fatal(err)
	}
	all, err := eventlog.ParseTCG(b)
	if err != nil || len(all) != 35 {
		t.Fatalf("%d entries, %v", len(all), err)
	}
	return all
}

// initial returns the values of PCRs after a startup.
func initial() []ledger.Bank {
	var all []ledger.Bank
	for _, alg := range banks {
		b := ledger.Bank{Alg: alg, Mask: 1<<ledger.PCRs - 1}
		for pcr := range ledger.PCRs {
			v := make([]byte, alg.Size())
			if pcr >= 17 && pcr <= 22 {
				v = bytes.Repeat([]byte{0xff}, alg.Size())
			}
			b.Values = append(b.Values, v)
		}
		all = append(all, b)
	}
	return all
}

// recording makes a ledger file.
type recording struct {
	w    ledger.Writer
	file []byte
	ms   uint32
}

func record(number uint64, entries []eventlog.Entry) *recording {
	r := &recording{}
	r.file = r.w.AppendHeader(nil, ledger.Header{
		TPM: tpm.V20, Identity: [16]byte{1}, Boot: number, Time: time.Unix(1700000000+int64(number)*1000, 0).UTC(), Engine: "libtpms 0.9.2",
	})
	r.measure(entries)
	return r
}

// measure records a startup and measurements.
func (r *recording) measure(entries []eventlog.Entry) {
	r.add(ledger.KindStartup, []byte{0, 0})
	r.add(ledger.KindValues, ledger.AppendValues(nil, ledger.Initial, initial()))
	for _, e := range entries {
		r.extend(e.Index, e.Digests)
	}
}

func (r *recording) add(k ledger.Kind, body []byte) {
	r.ms++
	r.file = r.w.Append(r.file, ledger.Record{Kind: k, Time: r.ms, Body: body})
}

func (r *recording) extend(index uint32, digests []ledger.Digest) {
	r.add(ledger.KindExtend, ledger.Extend{Index: index, Code: 0x182, Digests: digests}.Append(nil))
}

// policy records the use of a policy over PCRs.
func (r *recording) policy(result uint32, pcrs ...int) *recording {
	p := ledger.Policy{Result: result, Code: 0x15e, Object: [8]byte{7}, Banks: []ledger.Bank{{Alg: ledger.SHA256}}}
	for _, pcr := range pcrs {
		p.Banks[0].Mask |= 1 << pcr
	}
	r.add(ledger.KindPolicy, p.Append(nil))
	return r
}

func (r *recording) end() *recording {
	r.add(ledger.KindEnd, []byte{1})
	return r
}

// history stores the recordings as a TPM does and loads them.
func history(t testing.TB, all ...*recording) *History {
	t.Helper()
	dir := t.TempDir()
	for _, r := range all {
		b, err := ledger.Parse(r.file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ledger.Name("tpm2-00", b.Boot)), r.file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h, err := Load(dir, "tpm2-00", "tpm-00")
	if err != nil || len(h.Warnings) > 0 {
		t.Fatal(err, h)
	}
	return h
}

func newFiles() *Files { return &Files{Dictionary: NewDictionary()} }

// replaced returns a copy of entries with other data in one of them.
func replaced(entries []eventlog.Entry, at int, data []byte) []eventlog.Entry {
	all := append([]eventlog.Entry(nil), entries...)
	all[at].Digests = nil
	for _, alg := range banks {
		all[at].Digests = append(all[at].Digests, ledger.Digest{Alg: alg, Value: eventlog.Sum(alg, data)})
	}
	return all
}

// TestExplainSecureBoot checks that explain names PCR 7, its first measurement, both values and
// the boot after the firmware has switched Secure Boot on, without any file.
func TestExplainSecureBoot(t *testing.T) {
	log := realLog(t)
	on := eventlog.Variable{Name: "SecureBoot", Vendor: eventlog.GlobalVariable, Data: []byte{1}}
	h := history(t,
		record(1, log).policy(0, 4, 7).end(),
		record(2, log).policy(0, 4, 7).end(),
		record(3, replaced(log, 3, on.Measured())).policy(0x99d, 4, 7),
		record(4, replaced(log, 3, on.Measured())).policy(0x99d, 4, 7),
	)
	e := newFiles().Explain(h, nil)
	if len(e.Failures) != 1 {
		t.Fatalf("%d failures: %s", len(e.Failures), e.Text())
	}
	f := e.Failures[0]
	if f.Since != 3 || f.Good != 2 || f.Times != 2 || len(f.Details) != 2 || !f.Details[0].Same {
		t.Errorf("failure: %+v", f)
	}
	d := f.Details[1]
	if d.PCR != 7 || d.Same || d.More != 0 || d.First == nil || d.First.Position != 1 || d.First.Kind != kindChanged ||
		d.First.Old.Name.Text != "Secure Boot off" || d.First.New.Name.Text != "Secure Boot on" || d.First.New.Name.Source != fromConstant {
		t.Errorf("PCR 7: %s", e.Text())
	}
	for _, want := range []string{"since boot 3", "result 0x99d (TPM_RC_POLICY_FAIL)", "last succeeded in boot 2", "PCR 4: the same value", "PCR 7, measurement 1: changed", "recovery key", "not an attack"} {
		if !strings.Contains(e.Text(), want) {
			t.Errorf("%q is missing in:\n%s", want, e.Text())
		}
	}
	for _, never := range []string{"rm ", "wipe", "delete", "luksKill", "tpm2_clear"} {
		if strings.Contains(e.Text(), never) {
			t.Errorf("%q is in:\n%s", never, e.Text())
		}
	}
	if b, err := json.Marshal(e); err != nil || !json.Valid(b) {
		t.Error(err)
	}
}

// TestNothingChanged checks that two equal boots have no difference, and that a later success ends
// a failure.
func TestNothingChanged(t *testing.T) {
	log := realLog(t)
	h := history(t, record(1, log).policy(0, 7).end(), record(2, replaced(log, 3, []byte{1})).policy(0x99d, 7).end(), record(3, log).policy(0, 7).end(), record(4, log).policy(0, 7).end())
	if e := newFiles().Explain(h, nil); len(e.Failures) != 0 || !strings.Contains(e.Text(), "nothing changed") {
		t.Error(e.Text())
	}
	l := h.List()
	if len(l.Boots) != 4 || l.Boots[3].Summary != "nothing changed" || l.Boots[1].Summary != "changed: PCR 7" {
		t.Error(l.Text())
	}
	if d := newFiles().Diff(h, h.Boots[2], h.Boots[3]); len(d.Changes) != 0 || !strings.Contains(d.Text(), "nothing changed") {
		t.Error(d.Text())
	}
}

// TestOtherCauses checks the explanations of failures that do not come from PCRs.
func TestOtherCauses(t *testing.T) {
	log := realLog(t)
	for _, r := range []struct {
		name, want string
		h          *History
	}{
		{"PIN", "not one that PCRs cause", history(t, record(1, log).policy(0, 7), record(2, log).policy(0x98e, 7))},
		{"same values", "another condition", history(t, record(1, log).policy(0, 7), record(2, log).policy(0x99d, 7))},
		{"never", "No recorded boot succeeded", history(t, record(1, log).policy(0x99d, 7))},
	} {
		e := newFiles().Explain(r.h, nil)
		if len(e.Failures) != 1 || !strings.Contains(e.Text(), r.want) {
			t.Errorf("%s: %q is missing in:\n%s", r.name, r.want, e.Text())
		}
	}
}

// TestGivenUp checks that a session that ends unused counts as a failure only if the values of the
// PCRs have changed since the last success.
func TestGivenUp(t *testing.T) {
	log := realLog(t)
	gave := func(r *recording, value byte) *recording {
		p := ledger.Policy{Banks: []ledger.Bank{{Alg: ledger.SHA256, Mask: 1 << 7}}, Digests: []ledger.Digest{{Alg: ledger.SHA256, Value: bytes.Repeat([]byte{value}, 32)}}}
		r.add(ledger.KindPolicy, p.Append(nil))
		p.Result = ledger.NotUsed
		p.Digests[0].Value = bytes.Repeat([]byte{1}, 32)
		r.add(ledger.KindPolicy, p.Append(nil))
		return r
	}
	for value, failures := range map[byte]int{1: 0, 2: 1} {
		h := history(t, record(1, log).policy(0, 7).end(), gave(record(2, log), value).end())
		e := newFiles().Explain(h, nil)
		if len(e.Failures) != failures {
			t.Errorf("a digest of %d: %d failures, want %d:\n%s", value, len(e.Failures), failures, e.Text())
		}
		if failures == 1 && !strings.Contains(e.Text(), "the guest did not use the session: it may have compared the policy itself") {
			t.Error(e.Text())
		}
	}
}

// TestUnknownPCRs checks the explanation for a key of a TPM 1.2 that is bound to PCRs, whose
// commands do not name them.
func TestUnknownPCRs(t *testing.T) {
	r := &recording{}
	r.file = r.w.AppendHeader(nil, ledger.Header{TPM: tpm.V12, Boot: 1})
	r.add(ledger.KindPolicy, ledger.Policy{Result: 24, Code: 0x3c}.Append(nil))
	text := newFiles().Explain(history(t, r), nil).Text()
	for _, want := range []string{"Unsealing over unknown PCRs has failed since boot 1", "swtpm boots diff"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
}

// TestHostChanges checks that the change of a file counts only if it is between the end of one
// boot and the beginning of the next.
func TestHostChanges(t *testing.T) {
	log := realLog(t)
	h := history(t, record(1, log).end(), record(2, log).end())
	a, b := h.Boots[0], h.Boots[1]
	for at, want := range map[time.Time]int{
		a.Time.Add(time.Millisecond): 0, a.lastSeen().Add(time.Second): 1, b.Time.Add(time.Second): 0,
	} {
		if got := changesBetween(a, b, []hostFile{{"VARS.fd", at, "variable store"}}); len(got) != want {
			t.Errorf("changed at %v: %q, want %d", at, got, want)
		}
	}
}

// TestCompare checks the kinds and the places of the differences between a boot and changed copies
// of it.
func TestCompare(t *testing.T) {
	log := realLog(t)
	for _, r := range []struct {
		name  string
		log   []eventlog.Entry
		kind  changeKind
		place int
	}{
		{"changed", replaced(log, 6, []byte("x")), kindChanged, 4},
		{"removed", append(append([]eventlog.Entry(nil), log[:6]...), log[7:]...), kindRemoved, 4},
		{"added", append(append(append([]eventlog.Entry(nil), log[:6]...), log[0]), log[6:]...), kindAdded, 4},
	} {
		if r.kind == kindAdded {
			r.log[6].Index = 7
		}
		h := history(t, record(1, log), record(2, r.log))
		all := compare(h.Boots[0], h.Boots[1])
		if len(all) != 1 || all[0].Kind != r.kind || all[0].Index != 7 || all[0].Position != r.place {
			t.Errorf("%s: %+v", r.name, all)
		}
	}
}

// TestReset checks that a reset of PCR 16 starts its sequence again.
func TestReset(t *testing.T) {
	r := record(1, nil)
	d := []ledger.Digest{{Alg: ledger.SHA256, Value: make([]byte, 32)}}
	r.extend(16, d)
	r.add(ledger.KindReset, []byte{0, 0, 0, 16})
	r.extend(16, d)
	b := history(t, r).Boots[0]
	if s := b.sequence(16, 0); len(s) != 1 || s[0].Position != 1 || s[0].Record != 5 {
		t.Errorf("%+v", s)
	}
	if s := b.sequence(16, 3); len(s) != 1 || s[0].Record != 3 {
		t.Errorf("before the reset: %+v", s)
	}
	if e := newFiles().entries(b); len(e) != 1 {
		t.Errorf("%d entries, want 1", len(e))
	}
}

// TestDamaged checks that a damaged file gives a warning, and a directory without a ledger
// ErrNone.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir, "tpm2-00"); err != ErrNone {
		t.Errorf("empty directory: %v", err)
	}
	good := record(2, realLog(t)).file
	for n, file := range [][]byte{good[:30], good[:len(good)-3]} {
		if err := os.WriteFile(filepath.Join(dir, ledger.Name("tpm2-00", uint64(n+1))), file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := Load(dir, "tpm2-00")
	if err != nil || len(h.Boots) != 1 || len(h.Warnings) != 2 {
		t.Errorf("%v, %+v", err, h)
	}
}
