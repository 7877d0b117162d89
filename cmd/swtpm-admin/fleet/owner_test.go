package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/store"
)

// inStore returns the command line of a TPM whose state is in the cluster store.
func inStore(socket, state string) []string {
	args := classic(socket)
	args[len(args)-1] = "backend-uri=store://" + state
	return append(args, "--key", "file=/nonexistent")
}

// TestOwners checks what the list has of TPMs in a cluster store: one question for all of them, and
// none for a host without.
func TestOwners(t *testing.T) {
	f := newFake(t)
	var asked [][]string
	failure := error(nil)
	f.Describe = func(_ context.Context, states []string) (string, []store.Entry, error) {
		asked = append(asked, states)
		return "here", []store.Entry{
			{Name: "mine", Owner: "here", Since: 1700000000, Epoch: 3, Generation: 41},
			{Name: "lost", Owner: "b\x1b[31m", Since: 1700000000, Epoch: 4, Generation: 5},
			{Name: "free", Epoch: 9, Generation: 6},
		}, failure
	}
	f.run(t, 100, "swtpm", libvirtSocket, 0, classic(libvirtSocket)...)
	if got := f.list(t); got.Owner != nil || len(asked) != 0 || got.Location != "dir:///nonexistent" {
		t.Errorf("a TPM in a directory: %+v, asked %q", got, asked)
	}
	for i, state := range []string{"mine", "lost", "free", "none", "mine"} {
		socket := "/run/libvirt/qemu/swtpm/" + string(rune('1'+i)) + "-vm" + string(rune('1'+i)) + "-swtpm.sock"
		f.run(t, 200+i, "swtpm", socket, 0, inStore(socket, state)...)
	}
	tpms, notes := f.Collect(t.Context())
	if len(tpms) != 6 || len(notes) != 0 || len(asked) != 1 || !slices.Equal(asked[0], []string{"free", "lost", "mine", "none"}) {
		t.Fatalf("%d TPMs, %q, asked %q", len(tpms), notes, asked)
	}
	for name, want := range map[string]string{
		"vm1": `{"exists":true,"host":"here","here":true,"since":"2023-11-14T22:13:20Z","epoch":3} 41 here `,
		"vm2": `{"exists":true,"host":"b\u001b[31m","here":false,"since":"2023-11-14T22:13:20Z","epoch":4} 5 b\x1b[31m host b\x1b[31m has taken the state over, epoch 4`,
		"vm3": `{"exists":true,"here":false,"epoch":9} 6 none `,
		"vm4": `{"exists":false,"here":false} - none the cluster store does not have the state`,
	} {
		i := slices.IndexFunc(tpms, func(x TPM) bool { return x.VM == name })
		b, err := json.Marshal(tpms[i].Owner)
		if err != nil {
			t.Fatal(err)
		}
		tpms[i].Reasons, tpms[i].Restart = nil, RestartNotNeeded
		row := tpms[i].row(time.Now())
		got := string(b) + " " + row[9] + " " + row[10] + " " + strings.TrimPrefix(row[len(row)-1], "-")
		if got != want || row[8] != "in the store" {
			t.Errorf("%s: %q, want %q; stored %q", name, got, want, row[8])
		}
	}

	failure = errors.New("connection refused")
	tpms, notes = f.Collect(t.Context())
	if len(tpms) != 6 || !slices.Equal(notes, []string{"the owners of states in the cluster store are unknown: connection refused"}) || tpms[1].Owner != nil {
		t.Errorf("%d TPMs, %q", len(tpms), notes)
	}
}

// TestOwnedElsewhere checks a TPM that is off here and runs on another host, in the list and the metrics.
func TestOwnedElsewhere(t *testing.T) {
	cfg := &config.Config{}
	cfg.State.Location = nv.Location{Kind: nv.Cluster, Path: "vm1"}
	x := TPM{Name: "vm1", State: stateStopped, Restart: RestartNotNeeded, Location: "store://vm1", cfg: cfg}
	x.own(store.Entry{Owner: "b", Since: 1700000000, Epoch: 7, Generation: 5}, true, "a")
	if want := "owned by host b since 2023-11-14T22:13:20Z, epoch 7"; x.note() != want {
		t.Errorf("the note is %q, want %q", x.note(), want)
	}
	unknown := x
	unknown.own(store.Entry{Owner: "b", Since: 1700000000}, true, "a")
	if want := "owned by host b since 2023-11-14T22:13:20Z"; unknown.note() != want {
		t.Errorf("the note without an epoch is %q, want %q", unknown.note(), want)
	}
	text := string(Metrics([]TPM{x}, nil, 0))
	for _, want := range []string{
		`swtpm_tpm_store_info{name="vm1",location="store://vm1",owner="b"} 1`, `swtpm_tpm_store_owned{name="vm1"} 0`, `swtpm_tpm_store_epoch{name="vm1"} 7`,
		`swtpm_tpm_generation{name="vm1"} 5`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	x.Verdict = `would not start: owned by host "b"`
	if x.note() != x.Verdict {
		t.Errorf("the note repeats the verdict: %q", x.note())
	}
}
