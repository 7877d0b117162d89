package payload

import (
	"os"
	"strings"
	"testing"
)

func TestAlgorithmProfile(t *testing.T) {
	for file, want := range map[string]string{
		"tpm2-head-bare.permall": `{"Name":"default-v1","StateFormatLevel":`,
		"tpm2-fresh.permall":     "",
	} {
		b, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		got := AlgorithmProfile(b)
		if !strings.HasPrefix(got, want) || (got == "") != (want == "") || strings.HasSuffix(got, "\x00") {
			t.Errorf("%s: %q, want %q…", file, got, want)
		}
		for n := range b {
			if p := AlgorithmProfile(b[:n]); p != "" && p != got {
				t.Errorf("%s cut after %d bytes: %q", file, n, p)
			}
		}
	}
}
