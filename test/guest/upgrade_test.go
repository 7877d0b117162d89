package guest_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/fleet"
	"github.com/swtpm-go/swtpm/test/harness"
)

// oneUnit is a service manager with one unit, whose process is a service of this test.
type oneUnit struct {
	t *testing.T
	s *service
}

func (u oneUnit) List(context.Context, string) ([]fleet.Unit, error) {
	return []fleet.Unit{{Name: "swtpm@guest.service", State: "active", PID: u.s.Cmd.Process.Pid}}, nil
}

func (u oneUnit) Stored(context.Context, string) (int, error) { return 1, nil }

func (u oneUnit) Restart(context.Context, string) error {
	u.s.again(u.t, unix.SIGTERM)
	harness.Await(u.t, "the control socket", func() bool { return harness.Listens(u.s.ctrl) })
	return nil
}

// libtpmsCopy returns a directory with a copy of libtpms.
func libtpmsCopy(t *testing.T) (dir string, replace func()) {
	t.Helper()
	out, err := exec.Command("ldd", bin).Output()
	m := regexp.MustCompile(`(libtpms\.so\.\d+) => (\S+)`).FindStringSubmatch(string(out))
	if err != nil || m == nil {
		t.Fatalf("ldd: %v: %s", err, out)
	}
	dir = t.TempDir()
	file := filepath.Join(dir, m[1])
	text := harness.Read(t, m[2])
	replace = func() {
		if err := os.WriteFile(file+".new", []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	replace()
	return dir, replace
}

// TestUpgrade checks that a guest's kernel uses its TPM throughout an upgrade: its driver
// reads random numbers meanwhile, and finds its key, session and PCRs afterwards.
func TestUpgrade(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: the libraries of a TPM are visible to root alone")
	}
	need(t, "qemu-system-x86_64", "qemu-system-x86")
	dir, replace := libtpmsCopy(t)
	t.Setenv("LD_LIBRARY_PATH", dir)
	m := models[0]
	s := startService(t, m.tpm2, harness.TempDir(t))
	_ = os.Unsetenv("LD_LIBRARY_PATH") // QEMU uses the installed libraries
	v := startMachine(t, m, s.emulator, newDisk(t))
	v.booted(t)
	g := moveIn(t, v, m)
	check := fill(t, v, m)

	host := fleet.NewHost()
	host.Units, host.Doctor = oneUnit{t, s}, nil
	host.Profiles, host.States = nil, ""
	listed := func(restart string) (x fleet.TPM) { // what does not answer within seconds is missing in a list
		t.Helper()
		harness.Await(t, "the TPM in the list, restart "+restart, func() bool {
			all, _ := host.Collect(t.Context())
			i := slices.IndexFunc(all, func(x fleet.TPM) bool { return x.PID == s.Cmd.Process.Pid })
			if i >= 0 {
				x = all[i]
			}
			return i >= 0 && x.Restart == restart
		})
		return x
	}
	listed(fleet.RestartNotNeeded)
	replace()
	before := listed(fleet.RestartNeeded)
	v.asked++
	if _, err := fmt.Fprintf(v.serial, "busy0 bytes 4096 /dev/hwrng\n"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LD_LIBRARY_PATH", dir)
	u := fleet.Upgrade{Host: host, Jobs: 1}
	plan := u.Plan(t.Context(), []fleet.TPM{before})
	if r := u.Run(t.Context(), plan.Restart); len(r.Restarted) != 1 || len(r.Failed) != 0 {
		t.Fatalf("%+v, plan %+v\n%s", r, plan, harness.Read(t, s.log))
	}
	v.await(t, "> busy0 ")
	if x := listed(fleet.RestartNotNeeded); x.PID == before.PID {
		t.Errorf("after the upgrade: %+v", x)
	}
	g.isIn(t, v)
	check()
	v.quit(t, s.emulator)
}
