package boots

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// unpack writes the content of a compressed file to path.
func unpack(t *testing.T, packed, path string) {
	t.Helper()
	in, err := os.Open(packed)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	r, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestWalkthrough checks that the output in docs/boot-ledger.md is what swtpm boots prints for the
// ledger and the variable stores of that case, which TestBoots of test/guest has recorded.
func TestWalkthrough(t *testing.T) {
	document, err := os.ReadFile("../../../docs/boot-ledger.md")
	if err != nil {
		t.Fatal(err)
	}
	from, err := filepath.Abs("testdata/dbx")
	if err != nil {
		t.Fatal(err)
	}
	h, err := Load(from, "tpm2-00")
	if err != nil || len(h.Boots) != 2 || len(h.Warnings) > 0 {
		t.Fatal(err, h)
	}
	t.Chdir(t.TempDir())
	f := newFiles()
	for _, name := range []string{"before", "now"} {
		unpack(t, filepath.Join(from, name+".gz"), name+"/VARS.fd")
		if err := f.AddVariables(name + "/VARS.fd"); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"list": h.List().Text(), "explain": f.Explain(h, nil).Text()} {
		var block strings.Builder
		for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
			if line != "\n" {
				block.WriteString("    ")
			}
			block.WriteString(line)
		}
		if !strings.Contains(string(document), block.String()) {
			t.Errorf("%s: docs/boot-ledger.md does not have this output:\n%s", name, block.String())
		}
	}
}
