package boots

import (
	"bytes"
	"crypto"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-eventlog/cel"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestExportTCG2 checks that tpm2_eventlog reads the exported log and computes the values of the
// ledger.
func TestExportTCG2(t *testing.T) {
	program, err := exec.LookPath("tpm2_eventlog")
	if err != nil {
		if os.Getenv("SWTPM_TEST_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	h := history(t, record(1, realLog(t)).end())
	out, warnings, err := newFiles().Export(h, h.Boots[0], "tcg2")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := exec.Command(program, path).Output()
	if err != nil {
		t.Fatalf("%v: %v", program, err)
	}
	_, pcrs, _ := strings.Cut(string(text), "\npcrs:\n")
	values := regexp.MustCompile(`0x[0-9a-f]+`).FindAllString(pcrs, -1)
	want := 0
	for _, alg := range banks {
		for _, index := range h.Boots[0].indexes() {
			value := h.Boots[0].Final.Value(alg, int(index))
			if want++; !strings.Contains(pcrs, "0x"+hexString(value)) {
				t.Errorf("%v PCR %d: %x is missing in:\n%s", alg, index, value, pcrs)
			}
		}
	}
	if len(values) != want {
		t.Errorf("%d values, want %d", len(values), want)
	}
}

func hexString(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// TestExportReplay checks that an exported log replays to the values of the ledger, and that no
// unknown content is invented.
func TestExportReplay(t *testing.T) {
	h := history(t, record(1, realLog(t)).end())
	b := h.Boots[0]
	out, _, err := newFiles().Export(h, b, "tcg2")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := eventlog.ParseTCG(out)
	if err != nil || len(entries) != len(b.Measurements) {
		t.Fatal(err, len(entries))
	}
	known := 0
	for i := range entries {
		if len(entries[i].Data) > 0 {
			if known++; !entries[i].Verified() {
				t.Errorf("event %d has data of another digest: %x", i+1, entries[i].Data)
			}
		}
	}
	if known != 8+1+1+2+5 { // separators, version, boot option, exit of boot services, Secure Boot
		t.Errorf("%d events with content", known)
	}
}

// TestExportCEL checks the entries of an export as CEL and as YAML.
func TestExportCEL(t *testing.T) {
	r := record(1, realLog(t))
	r.extend(0x01d10000, []ledger.Digest{{Alg: ledger.SHA256, Value: make([]byte, 32)}})
	h := history(t, r.end())
	out, _, err := newFiles().Export(h, h.Boots[0], "cel-json")
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		Recnum  *int `json:"recnum"`
		PCR     *int `json:"pcr"`
		NV      *int `json:"nv_index"`
		Digests []struct{ HashAlg, Digest string }
		Type    string          `json:"content_type"`
		Content json.RawMessage `json:"content"`
	}
	if err := json.Unmarshal(out, &all); err != nil || len(all) != 36 {
		t.Fatal(err, len(all))
	}
	for i, c := range all {
		if c.Recnum == nil || *c.Recnum != i || (c.PCR == nil) == (c.NV == nil) || len(c.Digests) == 0 || (c.Type == "") != (len(c.Content) == 0) {
			t.Errorf("record %d: %+v", i, c)
		}
	}
	tlv, _, err := newFiles().Export(h, h.Boots[0], "cel-tlv")
	if err != nil || !bytes.HasPrefix(tlv, []byte{0, 0, 0, 0, 8}) {
		t.Errorf("%v, %.16x", err, tlv)
	}
	if text, _, err := newFiles().Export(h, h.Boots[0], "yaml"); err != nil || !strings.Contains(string(text), `name: "Secure Boot off"`) {
		t.Error(err, string(text))
	}
}

// TestExportJoined checks that a boot whose beginning is not recorded cannot be exported as a TCG
// log.
func TestExportJoined(t *testing.T) {
	r := &recording{}
	r.file = r.w.AppendHeader(nil, ledger.Header{TPM: tpm.V20, Boot: 1})
	r.add(ledger.KindValues, ledger.AppendValues(nil, ledger.Joined, initial()))
	h := history(t, record(2, nil))
	b, err := ledger.Parse(r.file)
	if err != nil {
		t.Fatal(err)
	}
	joined, err := newBoot(b)
	if err != nil || !joined.Joined {
		t.Fatal(err, joined)
	}
	if _, _, err := newFiles().Export(h, joined, "tcg2"); err == nil {
		t.Error("exported")
	}
	if _, warnings, err := newFiles().Export(h, joined, "yaml"); err != nil || len(warnings) != 1 {
		t.Error(err, warnings)
	}
}

// TestGoEventlog checks that go-eventlog replays the exported log.
func TestGoEventlog(t *testing.T) {
	h := history(t, record(1, realLog(t)).end())
	b := h.Boots[0]
	out, _, err := newFiles().Export(h, b, "tcg2")
	if err != nil {
		t.Fatal(err)
	}
	for alg, hash := range map[ledger.Alg]crypto.Hash{ledger.SHA1: crypto.SHA1, ledger.SHA256: crypto.SHA256, ledger.SHA384: crypto.SHA384} {
		bank := register.FakeMRBank{Hash: hash}
		for pcr := range ledger.PCRs {
			bank.FakeMRs = append(bank.FakeMRs, register.FakeMR{Index: pcr, Digest: b.Final.Value(alg, pcr), DigestAlg: hash})
		}
		events, err := tcg.ParseAndReplay(out, bank.MRs(), tcg.ParseOpts{})
		if err != nil || len(events) != len(b.Measurements) {
			t.Errorf("%v: %d events, %v", alg, len(events), err)
		}
		bank.FakeMRs[7].Digest = make([]byte, alg.Size())
		if _, err := tcg.ParseAndReplay(out, bank.MRs(), tcg.ParseOpts{}); err == nil {
			t.Errorf("%v: another value of PCR 7 replays", alg)
		}
	}
	tlv, _, err := newFiles().Export(h, b, "cel-tlv")
	if err != nil {
		t.Fatal(err)
	}
	log, err := cel.DecodeToCEL(bytes.NewBuffer(tlv))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(log.Records()); n != len(b.Measurements) {
		t.Errorf("%d records of the canonical log, want %d", n, len(b.Measurements))
	}
}

// TestExportOneBank checks that the log of a TPM with the SHA-256 bank only, whose firmware
// measured with four algorithms, has the digests of that bank, and that go-eventlog replays it.
func TestExportOneBank(t *testing.T) {
	h, err := Load("testdata/dbx", "tpm2-00")
	if err != nil || len(h.Boots) != 2 {
		t.Fatal(err, h)
	}
	for _, b := range h.Boots {
		if banks := b.Final.Banks(); len(banks) != 1 || banks[0].Alg != ledger.SHA256 || len(b.Measurements[0].Digests) < 2 {
			t.Fatalf("banks %v, %d digests of a measurement: the boot does not test this", banks, len(b.Measurements[0].Digests))
		}
		out, warnings, err := newFiles().Export(h, b, "tcg2")
		if err != nil || len(warnings) > 0 {
			t.Fatal(err, warnings)
		}
		entries, err := eventlog.ParseTCG(out)
		if err != nil || len(entries) != len(b.Measurements) {
			t.Fatalf("%d entries, want %d: %v", len(entries), len(b.Measurements), err)
		}
		bank := register.FakeMRBank{Hash: crypto.SHA256}
		for pcr := range ledger.PCRs {
			bank.FakeMRs = append(bank.FakeMRs, register.FakeMR{Index: pcr, Digest: b.Final.Value(ledger.SHA256, pcr), DigestAlg: crypto.SHA256})
		}
		events, err := tcg.ParseAndReplay(out, bank.MRs(), tcg.ParseOpts{})
		if err != nil || len(events) != len(b.Measurements) {
			t.Errorf("%d events, want %d: %v", len(events), len(b.Measurements), err)
		}
		if len(b.Measurements[0].Digests) != 4 {
			t.Errorf("the export changed the boot: %d digests", len(b.Measurements[0].Digests))
		}
	}
}
