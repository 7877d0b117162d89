package offline

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestInspect checks the description of states with and without key, and of an empty directory.
func TestInspect(t *testing.T) {
	key := newKey(t, 16, 1)
	head := &Archive{Version: tpm.V20, Items: genuine(t, "tpm2-head-bare").Items}
	fresh := genuine(t, "tpm12-fresh")
	for _, c := range []struct {
		what  string
		a     *Archive
		under *seal.Key
		key   *seal.Key
		spoil bool
		want  string
	}{
		{"plain", fresh, nil, nil, false, `TPM 1.2
  permall: 1223 bytes, payload 1169 bytes; plain; checksum right; container version 2, written by swtpm-go`},
		{"profile", head, nil, nil, false, `TPM 2.0, profile "default-v1", state format level 7`},
		{"no key", head, key, nil, false, "TPM 2.0\n  permall: 2060 bytes; encrypted with aes-128-cbc, key not given; container version 2, written by swtpm or swtpm-go"},
		{"key", head, key, key, false, "encrypted with aes-128-cbc, key fits"},
		{"wrong key", head, key, newKey(t, 16, 2), false, "key does not fit"},
		{"key of another size", head, key, newKey(t, 32, 2), false, "key does not fit"},
		{"needless key", head, nil, key, false, "plain, though a key is given"},
		{"damaged", head, nil, nil, true, "checksum wrong"},
	} {
		p := newFixture(t, c.a, c.under, nil)
		if c.spoil {
			spoil(t, filepath.Join(p.path, p.v.FilePrefix()+nv.Permanent))
		}
		if err := os.WriteFile(filepath.Join(p.path, "TMP2-00.permall"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := p.open(t, c.key).Inspect()
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if got := r.Text(); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s\nwant %s", c.what, got, c.want)
		}
		if bad := r.Items[0].Problem != ""; bad != (c.spoil || strings.Contains(c.what, "wrong") || strings.Contains(c.what, "another")) {
			t.Errorf("%s: problem %q", c.what, r.Items[0].Problem)
		}
		if (len(r.Others) == 1) != (p.v == tpm.V20) {
			t.Errorf("%s: others %q", c.what, r.Others)
		}
	}
	if _, err := (fixture{t.TempDir(), tpm.V20}).open(t, nil).Inspect(); !errors.Is(err, ErrNone) {
		t.Errorf("of nothing: %v", err)
	}
}

// TestInspectCut checks that a state without its end, where checksum and record are, is not described as one of
// another program.
func TestInspectCut(t *testing.T) {
	for _, key := range []*seal.Key{nil, newKey(t, 16, 1)} {
		p := newFixture(t, genuine(t, "tpm2-fresh"), key, nil)
		path := filepath.Join(p.path, p.v.FilePrefix()+nv.Permanent)
		if err := os.Truncate(path, 300); err != nil {
			t.Fatal(err)
		}
		r, err := p.open(t, key).Inspect()
		if err != nil {
			t.Fatal(err)
		}
		i := r.Items[0]
		if i.Checksum != "" || i.Writer != "" || i.Container != 2 || !strings.Contains(i.Problem, "300 bytes, but its header says") {
			t.Errorf("Inspect = %+v, want a problem and no checksum or writer", i)
		}
		want := "300 bytes; plain; container version 2; changed " + i.Changed
		if key != nil {
			want = strings.Replace(want, "plain", "encrypted with aes-128-cbc", 1)
		}
		if got := i.text(); got != want {
			t.Errorf("the text is %q, want %q", got, want)
		}
	}
}
