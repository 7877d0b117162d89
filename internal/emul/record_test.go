package emul

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// tape is a Recorder.
type tape struct{ records []string }

func (r *tape) Command(raw []byte)  { r.records = append(r.records, fmt.Sprintf(">%x", raw)) }
func (r *tape) Response(rsp []byte) { r.records = append(r.records, fmt.Sprintf("<%x", rsp)) }

// took returns the records since the last time.
func (r *tape) took() string {
	s := strings.Join(r.records, " ")
	r.records = nil
	return s
}

// TestRecord checks the records and their form: all commands and responses of clients, except
// the response to a prefix, and the commands of this package.
func TestRecord(t *testing.T) {
	r := &tape{}
	b := newBench(t, Options{Version: tpm.V20, Traffic: r, AllowSetLocality: true})
	exchange := func(name, in, want string) {
		t.Helper()
		b.run(t, harness.Unhex(in))
		if got := r.took(); got != want {
			t.Errorf("%s: recorded %s, want %s", name, got, want)
		}
	}
	exchange("off", "80010000000a0000017a", ">80010000000a0000017a <80010000000a00000101")
	b.on(t)
	if got := r.took(); got != "" {
		t.Errorf("INIT: recorded %s", got)
	}
	if b.e.admitted {
		t.Error("the engine may serve commands without a record")
	}
	if err := b.Startup("clear"); err != nil {
		t.Fatal(err)
	}
	if got, want := r.took(), ">80010000000c000001440000 <80010000000a00000000"; got != want {
		t.Errorf("Startup: recorded %s, want %s", got, want)
	}
	exchange("a command", "80010000000a0000017a", ">80010000000a0000017a <80010000000a00000000")
	exchange("a prefix", "00000008020000000a80010000000a0000017a", ">00000008020000000a80010000000a0000017a <80010000000a00000000")
	exchange("a refused locality", "00000008090000000a80010000000a0000017a", ">00000008090000000a80010000000a0000017a <80010000000a00000107")
	exchange("the vendor command", "80010000000b2000100001", ">80010000000b2000100001 <80010000000a00000000")
	exchange("too short", "8001", ">8001 <80010000000a0000009a")
	b.e.mute = errors.New("no response")
	exchange("no response", "80010000000a0000017a", ">80010000000a0000017a")
	b.e.mute = nil
	b.e.results = []tpm.Result{tpm.RCFailure}
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	want := ">80010000000c000001450001 <80010000000a00000101 >80010000000c000001450000 <80010000000a00000000"
	if got := r.took(); got != want {
		t.Errorf("Stop: recorded %s, want %s", got, want)
	}
}
