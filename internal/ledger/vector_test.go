package ledger

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// vector returns the file of docs/ledger-format.md.
func vector() []byte {
	digest := bytes.Repeat([]byte{0x11}, 20)
	var w Writer
	b := w.AppendHeader(nil, Header{
		TPM: tpm.V12, Identity: [16]byte{15: 1}, Boot: 7, Time: time.UnixMilli(1_700_000_000_000), Clock: 5000, Engine: "libtpms 0.9.2",
	})
	b = w.Append(b, Record{Kind: KindStartup, Time: 3, Body: []byte{0, 0}})
	b = w.Append(b, Record{Kind: KindValues, Time: 3, Body: AppendValues(nil, Initial, []Bank{{Alg: SHA1, Mask: 1 << 7, Values: [][]byte{make([]byte, 20)}}})})
	b = w.Append(b, Record{Kind: KindExtend, Time: 40, Body: Extend{Index: 7, Code: 0x14, Digests: []Digest{{SHA1, digest}}}.Append(nil)})
	b = w.Append(b, Record{Kind: KindPolicy, Time: 900, Body: Policy{Result: 24, Code: 0x18, Banks: []Bank{{Alg: SHA1, Mask: 1 << 7}}, Digests: []Digest{{SHA1, digest}}}.Append(nil)})
	return w.Append(b, Record{Kind: KindEnd, Time: 1000, Body: []byte{1}})
}

// TestVector checks that the document has the bytes that this package writes, and the value
// that they give.
func TestVector(t *testing.T) {
	doc, err := os.ReadFile("../../docs/ledger-format.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(doc)), "")
	b, err := Parse(vector())
	if err != nil || b.Damage != nil {
		t.Fatal(err, b.Damage)
	}
	s, _, err := b.Replay(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{hex.EncodeToString(vector()), hex.EncodeToString(s.Value(SHA1, 7))} {
		if !strings.Contains(text, want) {
			t.Errorf("the document lacks %s", want)
		}
	}
}
