package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// newUnits returns a host with n units whose restart works, unless it is broken.
func newUnits(t *testing.T, n int, broken string) (*fake, *units) {
	f := newFake(t)
	var list []Unit
	for i := range n {
		name := fmt.Sprintf("vm%d", i)
		f.run(t, 100+i, "swtpm", "/run/swtpm/"+name+"/ctrl.sock", 0, "run", "--", "/nonexistent/"+name+".toml")
		list = append(list, Unit{Name: "swtpm@" + name + ".service", State: "active", PID: 100 + i})
	}
	u := &units{stored: 3}
	u.list = func() ([]Unit, error) { return slices.Clone(list), nil }
	u.restart = func(unit string) error {
		if unit == broken {
			return errRestart
		}
		i := slices.IndexFunc(list, func(u Unit) bool { return u.Name == unit })
		list[i].PID += 1000
		f.run(t, list[i].PID, "swtpm", "/run/swtpm/x/ctrl.sock", 0, "run", "x")
		return nil
	}
	f.Units = &oneByOne{u}
	return f, u
}

// oneByOne lists the unit that is asked for.
type oneByOne struct{ *units }

func (o *oneByOne) List(ctx context.Context, pattern string) ([]Unit, error) {
	all, err := o.units.List(ctx, pattern)
	if !strings.Contains(pattern, "*") {
		all = slices.DeleteFunc(all, func(u Unit) bool { return u.Name != pattern })
	}
	return all, err
}

// needed returns the TPMs of a host as if all needed a restart.
func needed(t *testing.T, f *fake) []TPM {
	tpms, notes := f.Collect(context.Background())
	if len(notes) > 0 {
		t.Fatal(notes)
	}
	for i := range tpms {
		tpms[i].Restart = RestartNeeded
	}
	return tpms
}

// TestUpgrade checks that all TPMs of a plan are restarted, each once, and that progress is
// reported.
func TestUpgrade(t *testing.T) {
	f, u := newUnits(t, 4, "")
	calls := 0
	up := Upgrade{Host: f.Host, Jobs: 2, Progress: func(int, int, *TPM, error) { calls++ }}
	plan := up.Plan(context.Background(), needed(t, f))
	if len(plan.Restart) != 4 || len(plan.Cannot) != 0 {
		t.Fatalf("%+v", plan)
	}
	if r := up.Run(context.Background(), plan.Restart); len(r.Restarted) != 4 || len(r.Failed) != 0 || len(u.restarts) != 4 || calls != 4 {
		t.Errorf("%+v, %d restarts, %d calls", r, len(u.restarts), calls)
	}
}

// TestUpgradeStops checks that the first TPM that does not come back ends the upgrade and is
// named, and that the others are left alone.
func TestUpgradeStops(t *testing.T) {
	f, u := newUnits(t, 4, "swtpm@vm1.service")
	up := Upgrade{Host: f.Host, Jobs: 1}
	r := up.Run(context.Background(), needed(t, f))
	if len(r.Restarted) != 1 || len(r.Failed) != 1 || !strings.HasPrefix(r.Failed[0], "vm1: ") || !slices.Equal(r.Left, []string{"vm2", "vm3"}) || len(u.restarts) != 2 {
		t.Errorf("%+v, restarts %q", r, u.restarts)
	}
}

// TestUpgradeStillOld checks that a TPM that runs the replaced library after its restart is
// a failure.
func TestUpgradeStillOld(t *testing.T) {
	f, u := newUnits(t, 1, "")
	restart := u.restart
	u.restart = func(unit string) error {
		err := restart(unit)
		f.link(t, "lib/libtpms.so.0", "libcrypto.so.3")
		return err
	}
	up := Upgrade{Host: f.Host}
	if r := up.Run(context.Background(), needed(t, f)); len(r.Failed) != 1 || !strings.Contains(r.Failed[0], "still runs a replaced library") {
		t.Errorf("%+v", r)
	}
}

// TestObstacles checks the reasons why a TPM cannot be restarted under its guest.
func TestObstacles(t *testing.T) {
	f, u := newUnits(t, 0, "")
	up := Upgrade{Host: f.Host}
	no := &config.Config{Service: config.Service{KeepSession: config.SessionNo}}
	for want, x := range map[string]TPM{
		"started by libvirt":        {Manager: "libvirt"},
		"started by no service":     {Manager: "manual"},
		"not confirmed":             {Manager: "systemd", State: stateUnproved},
		`keep-session = "no"`:       {Manager: "systemd", cfg: no},
		"of another user":           {Manager: "systemd", foreign: true},
		"libraries are not visible": {Manager: "systemd", Restart: RestartUnknown},
	} {
		if why, help := up.obstacle(context.Background(), &x); !strings.Contains(why, want) || help == "" {
			t.Errorf("%q, %q, want %q", why, help, want)
		}
	}
	u.stored = 0
	if why, _ := up.obstacle(context.Background(), &TPM{Manager: "systemd"}); !strings.Contains(why, "stores nothing") {
		t.Errorf("%q", why)
	}
}

// TestChanged checks which differences between before and after a restart count.
func TestChanged(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b sample
		want string
	}{
		{"same", sample{status: true, On: true, pcrs: true}, sample{status: true, On: true, pcrs: true}, ""},
		{"reset", sample{pcrs: true, PCRs: tpm.PCRs{Digest: "a", Counter: 3}}, sample{pcrs: true}, "the PCRs were reset"},
		{"locality", sample{status: true, Locality: 2}, sample{status: true}, "locality was 2 and is 0"},
		{"off", sample{status: true, On: true}, sample{status: true}, "is off"},
		{"not asked", sample{status: true, On: true}, sample{}, ""},
	} {
		got := changed(&TPM{Version: "2.0"}, &TPM{Version: "2.0"}, c.a, c.b)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if got := changed(&TPM{Version: "2.0"}, &TPM{Version: "1.2"}, sample{}, sample{}); got == "" {
		t.Error("another version is no change")
	}
}

// TestUpgradeJSON checks that lists without an element are arrays in JSON.
func TestUpgradeJSON(t *testing.T) {
	up := Upgrade{Host: newFake(t).Host}
	b, err := json.Marshal([]any{up.Plan(context.Background(), nil), up.Run(context.Background(), nil)})
	if want := `[{"restart":[],"cannot":[],"fine":0},{"restarted":[]}]`; err != nil || string(b) != want {
		t.Errorf("%s, %v, want %s", b, err, want)
	}
}
