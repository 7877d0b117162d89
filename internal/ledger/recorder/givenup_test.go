package recorder

import (
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

const made = "8002 0000001b 00000153 81000001 00000009 40000009 0000 01 0000"

const flushed = "8001 0000000e 00000165 03000000"

// TestGivenUp checks that a policy session that ends unused is a failure, unless a policy
// succeeded with the same values before.
func TestGivenUp(t *testing.T) {
	const done = "8001 0000000a 00000000"
	trial := strings.Replace(begun, "0000 01 0010", "0000 03 0010", 1)
	compare := []string{begun, opened, asked, done}
	for _, tt := range []struct {
		name     string
		messages []string
		failures int
	}{
		{"used", append(slices.Clone(compare), unsealed, fine), 0},
		{"flushed", append(slices.Clone(compare), flushed, done), 1},
		{"left open", compare, 1},
		{"for a new secret", append(slices.Clone(compare), flushed, done, made, fine), 0},
		{"open, for a new secret", append(slices.Clone(compare), made, fine, flushed, done), 0},
		{"a measurement, then a new secret", append(slices.Clone(compare), flushed, done, extended, fine, made, fine), 1},
		{"a new secret was refused", append(slices.Clone(compare), flushed, done, made, refused), 1},
		{"without PCRs", []string{begun, opened, flushed, done}, 0},
		{"trial", []string{trial, opened, asked, done, flushed, done}, 0},
		{"failed", append(slices.Clone(compare), unsealed, refused, flushed, done), 1},
		{"started again", append(slices.Clone(compare), "8001 0000000e 00000180 03000000", done, flushed, done), 0},
		{"the same values after a success", slices.Concat(compare, []string{unsealed, fine}, compare, []string{flushed, done}), 0},
		{"other values after a success", slices.Concat(compare, []string{unsealed, fine, extended, fine}, compare, []string{flushed, done}), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, 16)
			b.start()
			for i := 0; i < len(tt.messages); i += 2 {
				b.Take(tapped(t, tt.messages[i], tt.messages[i+1]))
			}
			b.end()
			var recorded []ledger.Policy
			for _, r := range b.boot(t, 1).Records {
				if r.Kind != ledger.KindPolicy {
					continue
				}
				p, err := r.Policy()
				if err != nil {
					t.Fatal(err)
				}
				if p.Result != 0 {
					recorded = append(recorded, p)
				}
			}
			if len(b.failed) != tt.failures || len(recorded) != tt.failures {
				t.Fatalf("failures: reported %+v, recorded %+v, want %d", b.failed, recorded, tt.failures)
			}
			if tt.failures == 0 || tt.name == "failed" {
				return
			}
			if p := recorded[0]; p.Result != ledger.NotUsed || len(p.Banks) != 1 || p.Banks[0].Mask != 1<<7 || len(p.Digests) != 1 {
				t.Errorf("%+v", p)
			}
			if got, want := Describe(tpm.V20, b.failed[0]), "policy not used: the guest did not use a session with a policy over sha256:7: it may have compared the policy itself"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

// TestBoundKey12 checks that a TPM 1.2's command that fails because of PCRs which it does not name is
// a failure, and that other results are none.
func TestBoundKey12(t *testing.T) {
	const sign = "00c2 00000012 0000003c 00000001 00000000"
	for result, failures := range map[string]int{"00c4 0000000a 00000018": 1, "00c4 0000000a 00000001": 0, "00c5 0000000a 00000000": 0} {
		b := newBench(t, 16)
		b.opt.TPM = tpm.V12
		b.start()
		b.Take(tapped(t, sign, result))
		if len(b.failed) != failures {
			t.Errorf("%s: %+v, want %d", result, b.failed, failures)
		}
		if failures == 0 {
			continue
		}
		if got, want := Describe(tpm.V12, b.failed[0]), "policy not satisfied: TPM_Sign with a policy over unknown PCRs: result 0x18"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
