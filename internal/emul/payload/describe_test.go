package payload_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestDescribe checks the descriptions of the states in testdata; the README there lists their
// origin.
func TestDescribe(t *testing.T) {
	for name, want := range map[string]payload.Summary{
		"tpm12-owned":                  {Version: 1},
		"tpm2-fresh":                   {Version: 3, Profile: "null", Level: 1},
		"tpm2-head-bare":               {Version: 4, Profile: "default-v1", Level: 7},
		"tpm2-head-ek-rsa3072-rsa4096": {Version: 4, Profile: "default-v2", Level: 8},
	} {
		v, _ := blobOf(name + ".permall")
		b := load(t, name+".permall")
		if got, err := payload.Describe(v, b); err != nil || !cmp.Equal(got, want) {
			t.Errorf("Describe(%s) = %+v, %v, want %+v", name, got, err, want)
		}
		if got := payload.VersionOf(b); got != v {
			t.Errorf("VersionOf(%s) = %v, want %v", name, got, v)
		}
		if _, err := payload.Describe(v, b[:200]); !errors.Is(err, payload.ErrDamaged) {
			t.Errorf("Describe(%s, cut) = %v", name, err)
		}
	}
	bad := bytes.Replace(load(t, "tpm2-head-bare.permall"), []byte(`{"Name"`), []byte(`["Name"`), 1)
	if s, err := payload.Describe(tpm.V20, bad); !errors.Is(err, payload.ErrDamaged) || !strings.Contains(err.Error(), "profile") {
		t.Errorf("Describe with a bad profile = %+v, %v", s, err)
	}
	if got := payload.VersionOf([]byte("neither")); got != 0 {
		t.Errorf("VersionOf = %v", got)
	}
}

// FuzzDescribe checks that Check accepts each state that Describe accepts.
func FuzzDescribe(f *testing.F) {
	for _, name := range genuine(f) {
		if strings.HasSuffix(name, ".permall") {
			f.Add(load(f, name))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, v := range []tpm.Version{tpm.V12, tpm.V20} {
			_, err := payload.Describe(v, b)
			if bad := payload.Check(v, tpm.Permanent, b); err == nil && bad != nil {
				t.Errorf("Describe accepts a state that Check refuses: %v", bad)
			}
		}
	})
}
