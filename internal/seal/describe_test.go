package seal

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func vectorFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(vector{Name: name}.path("tpm2-00.permall"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDescribeFile checks the description of intact and damaged state files.
func TestDescribeFile(t *testing.T) {
	ours, err := Seal([]byte("payload"), nil)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(ours)
	flipped[20] ^= 1
	for _, c := range []struct {
		name string
		blob []byte
		want FileInfo
		bad  bool
	}{
		{"swtpm, plain", vectorFile(t, "tpm2-plain"), FileInfo{2, 1, 0, 0, NoChecksum, nil}, false},
		{"ours, plain", ours, FileInfo{2, 1, 0, 0, RightChecksum, nil}, false},
		{"ours, damaged", flipped, FileInfo{2, 1, 0, 0, WrongChecksum, nil}, true},
		{"AES-128", vectorFile(t, "tpm2-key128-hex"), FileInfo{2, 1, flags128, 128, NoChecksum, nil}, false},
		{"AES-256", vectorFile(t, "tpm2-key256-hex"), FileInfo{2, 1, flags256, 256, NoChecksum, nil}, false},
		{"version 1", vectorFile(t, "synth-tpm2-v1-plain"), FileInfo{1, 1, 0, 0, NoChecksum, nil}, false},
		{"cut", vectorFile(t, "tpm2-plain")[:100], FileInfo{2, 1, 0, 0, NoChecksum, nil}, true},
		{"empty", nil, FileInfo{Checksum: NoChecksum}, true},
	} {
		got, err := DescribeFile(c.blob)
		if !cmp.Equal(got, c.want) || (err != nil) != c.bad {
			t.Errorf("%s: DescribeFile = %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

// FuzzDescribeFile checks that a file that opens without a key is described as plain.
func FuzzDescribeFile(f *testing.F) {
	for _, name := range []string{"tpm2-plain", "tpm2-key128-hex", "tpm2-key256-hex", "synth-tpm2-v1-plain", "synth-tpm2-v1-key128"} {
		f.Add(vectorFile(f, name))
	}
	ours, _ := Seal([]byte("payload"), nil)
	f.Add(ours)
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := DescribeFile(b)
		if _, opens := Open(b, nil); opens == nil && len(b) < MaxPayload && (err != nil || i.Bits != 0 || i.Checksum == WrongChecksum) {
			t.Errorf("DescribeFile(%x) = %+v, %v, and it opens", b, i, err)
		}
	})
}

// TestReadPassphrase checks that one newline at the end is ignored, and the passphrases that are
// refused.
func TestReadPassphrase(t *testing.T) {
	for in, want := range map[string]string{
		"correct horse": "correct horse", "correct horse\n": "correct horse", "two\nlines\n": "two\nlines",
		"\n\n": "\n", "": "", "\n": "", strings.Repeat("x", maxPassphrase+1): "",
	} {
		p, err := ReadPassphrase(keyFile(t, in), -1)
		if want == "" {
			if err == nil {
				t.Errorf("%.20q: no error", in)
			}
			continue
		}
		if err != nil || string(p.Bytes()) != want {
			t.Errorf("%.20q: %q, %v", in, p.Bytes(), err)
		}
		if short := len(p.Warnings()) > 0; short != (len(want) <= shortPassphrase) {
			t.Errorf("%.20q: warnings %q", in, p.Warnings())
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := (*Passphrase)(nil).Close(); err != nil {
		t.Error(err)
	}
	if _, err := ReadPassphrase(t.TempDir(), -1); err == nil {
		t.Error("a directory: no error")
	}
}
