package eventlog

import (
	"bytes"
	"os"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

func sample(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../testdata/ovmf.log")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestParseTCG checks the digests and the texts of a real log of firmware.
func TestParseTCG(t *testing.T) {
	all, err := ParseTCG(sample(t))
	if err != nil || len(all) != 35 {
		t.Fatal(err, len(all))
	}
	verified := 0
	for i := range all {
		if len(all[i].Digests) != 4 {
			t.Errorf("event %d has %d digests", i+1, len(all[i].Digests))
		}
		if all[i].Verified() {
			verified++
		}
	}
	// Not those of firmware volumes, images, boot variables, and what Linux and systemd-stub measure.
	if verified != 17 {
		t.Errorf("%d events with the digest of their data", verified)
	}
	for at, want := range map[int]string{0: "EV_S_CRTM_VERSION", 3: "EV_EFI_VARIABLE_DRIVER_CONFIG: SecureBoot, 1 bytes", 22: "EV_IPL: .linux", 32: "EV_EVENT_TAG: Linux initrd"} {
		if all[at].Text != want {
			t.Errorf("event %d: %q, want %q", at+1, all[at].Text, want)
		}
	}
}

// TestAppendTCG checks that a written log is read again, and that a log that is cut off gives its
// first entries.
func TestAppendTCG(t *testing.T) {
	all, err := ParseTCG(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	algs := []ledger.Alg{ledger.SHA1, ledger.SHA256, ledger.SHA384, ledger.SHA512}
	out := AppendTCG(nil, algs, 3, all)
	again, err := ParseTCG(out)
	if err != nil || len(again) != len(all) {
		t.Fatal(err, len(again))
	}
	if !bytes.Contains(out, append([]byte("StartupLocality\x00"), 3)) {
		t.Error("the locality is missing")
	}
	if cut, err := ParseTCG(out[:len(out)-1]); err == nil || len(cut) != len(all)-1 {
		t.Errorf("cut off: %v, %d", err, len(cut))
	}
	if padded, err := ParseTCG(append(out, make([]byte, 100)...)); err != nil || len(padded) < len(all) {
		t.Errorf("with an empty rest: %v, %d", err, len(padded))
	}
}

// TestParsePcrlock checks that the known digests of a dictionary are read, and that invalid JSON
// is an error.
func TestParsePcrlock(t *testing.T) {
	all, err := ParsePcrlock([]byte(`{"records":[{"pcr":4,"digests":[{"hashAlg":"sha256","digest":"` + hex64 + `"},{"hashAlg":"sm3","digest":"00"}]},{"pcr":24,"digests":[]}]}`))
	if err != nil || len(all) != 1 || all[0].Index != 4 || len(all[0].Digests) != 1 {
		t.Error(err, all)
	}
	if _, err := ParsePcrlock([]byte("[")); err == nil {
		t.Error("no error")
	}
}

const hex64 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"

// FuzzParse checks that any bytes are parsed without a panic, and that the entries can be written
// in each format.
func FuzzParse(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte("\x1e{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\"" + hex64 + "\"}],\"content_type\":\"systemd\",\"content\":{\"string\":\"x\"}}\n"))
	f.Add([]byte(`{"records":[{"pcr":4,"digests":[{"hashAlg":"sha256","digest":"` + hex64 + `"}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) ([]Entry, error){Parse, ParsePcrlock} {
			all, _ := parse(b)
			for i := range all {
				e := &all[i]
				if e.Index >= ledger.PCRs || len([]rune(e.Text)) > maxText+64 {
					t.Errorf("%+v", e)
				}
				e.Verified()
			}
			_, _ = CELJSON(all)
			_ = AppendCELTLV(nil, all)
		}
	})
}
