package generation_test

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/swtpm-go/swtpm/internal/nv/generation"
)

// TestVector checks the record in docs/generation.md.
func TestVector(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/generation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```hex record\n")
	text, _, _ := strings.Cut(rest, "```")
	b, err := hex.DecodeString(strings.ReplaceAll(text, "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := generation.Decode(b); err != nil || !cmp.Equal(got, sample()) {
		t.Errorf("%v, %s", err, cmp.Diff(sample(), got))
	}
}
