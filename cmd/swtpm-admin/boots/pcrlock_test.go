package boots

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pcrlock is systemd's program that reads logs of measurements; Debian has it since 13.
const pcrlock = "/usr/lib/systemd/systemd-pcrlock"

// celRecord is a record of the Canonical Event Log in JSON.
type celRecord struct {
	PCR     int         `json:"pcr"`
	Digests []celDigest `json:"digests"`
	Type    string      `json:"content_type,omitempty"`
	Content *celContent `json:"content,omitempty"`
}

type celDigest struct {
	Alg   string `json:"hashAlg"`
	Value string `json:"digest"`
}

type celContent struct {
	Type string `json:"event_type"`
	Data string `json:"event_data"`
}

// digests returns the digests by their algorithms.
func (r celRecord) digests() map[string]string {
	all := map[string]string{}
	for _, d := range r.Digests {
		all[d.Alg] = d.Value
	}
	return all
}

// askPcrlock returns the Canonical Event Log that systemd-pcrlock makes of a log of the firmware
// and a log of systemd.
func askPcrlock(t *testing.T, firmware, userspace []byte) (all []celRecord) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command(pcrlock, "--no-pager", "cel")
	cmd.Env = os.Environ()
	for name, log := range map[string][]byte{"FIRMWARE": firmware, "USERSPACE": userspace} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, log, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, "SYSTEMD_MEASURE_LOG_"+name+"="+path)
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, complaints.String())
	}
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return all
}

// TestPcrlock checks that systemd-pcrlock reads the exported logs: it makes the same Canonical Event
// Log of a TCG log as the export, and reads the export's records like its own log.
func TestPcrlock(t *testing.T) {
	if _, err := os.Stat(pcrlock); err != nil {
		t.Skip(err)
	}
	h := history(t, record(1, realLog(t)).end())
	export := func(format string) []byte {
		out, _, err := newFiles().Export(h, h.Boots[0], format)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var want []celRecord
	if err := json.Unmarshal(export("cel-json"), &want); err != nil {
		t.Fatal(err)
	}
	got := askPcrlock(t, export("tcg2"), nil)
	if len(got) != len(want) || len(want) == 0 {
		t.Fatalf("TCG log: %d records, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i].PCR != want[i].PCR || !cmp.Equal(got[i].digests(), want[i].digests()) {
			t.Errorf("TCG log, record %d: %+v, want %+v", i+1, got[i], want[i])
		}
		if want[i].Content != nil && (got[i].Type != want[i].Type || !cmp.Equal(got[i].Content, want[i].Content)) {
			t.Errorf("TCG log, record %d: %+v, want %+v", i+1, got[i].Content, want[i].Content)
		}
	}

	// Its own log is a sequence of such records, each after a record separator.
	var sequence bytes.Buffer
	for _, r := range want {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		sequence.WriteString("\x1e" + string(b) + "\n")
	}
	empty, _, err := newFiles().Export(h, &Boot{Boot: h.Boots[0].Boot, Final: h.Boots[0].Final}, "tcg2")
	if err != nil {
		t.Fatal(err)
	}
	again := askPcrlock(t, empty, sequence.Bytes())
	if len(again) != len(want) {
		t.Fatalf("canonical log: %d records, want %d", len(again), len(want))
	}
	for i := range want {
		if again[i].PCR != want[i].PCR || !cmp.Equal(again[i].digests(), want[i].digests()) {
			t.Errorf("canonical log, record %d: %+v, want %+v", i+1, again[i], want[i])
		}
	}
}
