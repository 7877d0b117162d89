package emul

import (
	"errors"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// TestAlgorithmProfile checks when the engine gets the profile, and that a TPM which cannot have
// it stays off.
func TestAlgorithmProfile(t *testing.T) {
	for _, c := range []struct {
		name    string
		opt     Options
		err     error // of SetProfile
		stored  bool
		pending bool
		calls   string
		want    string // part of the line in the log; "" for success
	}{
		{name: "new", opt: Options{Profile: "{p}"}, calls: "Terminate SetProfile({p}) Start"},
		{name: "none", calls: "Terminate Start"},
		{name: "TPM 1.2", opt: Options{Profile: "{p}", Version: tpm.V12}, calls: "Terminate Start"},
		{name: "refused", opt: Options{Profile: "{p}"}, err: tpm.Fail, calls: "Terminate SetProfile({p})",
			want: "Could not set profile for TPM2: '{p}'"},
		{name: "existing TPM", opt: Options{Profile: "{p}"}, stored: true, calls: "Terminate SetProfile({p})",
			want: "Profile could not be applied to an existing TPM 2 instance: "},
		{name: "TPM from the control channel", opt: Options{Profile: "{p}"}, pending: true, calls: "SetState(1,1299) Terminate SetProfile({p})",
			want: "Profile could not be applied to an existing TPM 2 instance: "},
		{name: "none created", opt: Options{Profile: "failing"}, calls: "Terminate SetProfile(failing) Start Terminate",
			want: "no TPM could be made with the algorithm profile: "},
	} {
		b := newBench(t, c.opt)
		b.e.profileErr = c.err
		state, err := seal.Seal(b.e.fresh, nil)
		if err != nil {
			t.Fatal(err)
		}
		blob, _, err := seal.Keys{}.SealBlob(b.e.fresh, true)
		if err != nil {
			t.Fatal(err)
		}
		if c.stored {
			b.d.items["tpm2-00.permall"] = state
		}
		if c.pending {
			if err := b.SetState(tpm.Permanent, false, blob); err != nil {
				t.Fatal(err)
			}
		}
		err = b.Init(false)
		if got := b.e.took(); got != c.calls {
			t.Errorf("%s: engine calls = %q, want %q", c.name, got, c.calls)
		}
		if (err == nil) != (c.want == "") || b.On() != (err == nil) || err != nil && !errors.Is(err, tpm.Fail) {
			t.Errorf("%s: Init = %v, on %v, want TPM_FAIL if %q", c.name, err, b.On(), c.want)
		}
		if notes := strings.Join(*b.notes, "|"); !strings.Contains(notes, c.want) {
			t.Errorf("%s: log %q, want %q in it", c.name, notes, c.want)
		}
		if c.pending && !b.pending[tpm.Permanent] {
			t.Errorf("%s: the TPM from the control channel was lost", c.name)
		}
	}
}

// TestAlgorithmProfileOnce checks that only the first TPM gets the profile: a guest that is reset
// still has its TPM.
func TestAlgorithmProfileOnce(t *testing.T) {
	b := newBench(t, Options{Profile: "{p}", NoAutoShutdown: true}).on(t)
	if err := b.Init(false); err != nil {
		t.Fatal(err)
	}
	if got, want := b.e.took(), "Terminate Start"; got != want {
		t.Errorf("engine calls of the second Init = %q, want %q", got, want)
	}
}
