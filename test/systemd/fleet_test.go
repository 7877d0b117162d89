package systemd_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFleet checks that two hundred TPMs exist after a boot: half of them start at once, with the
// state from before the reboot, the other half with their first client. After they are disabled,
// none starts.
func TestFleet(t *testing.T) {
	const half = 100
	instance(t, "") // skips outside
	var services, sockets, late []string
	for i := range half {
		one, other := fmt.Sprintf("fleet%03d", i), fmt.Sprintf("fleet%03d", i+half)
		put(t, "/etc/swtpm/"+one+".toml", 0o644, profile("clear"))
		put(t, "/etc/swtpm/"+other+".toml", 0o644, passed)
		services, late = append(services, service(one)), append(late, service(other))
		sockets = append(sockets, socket(other), dataSocket(other))
	}
	all := slices.Concat(services, sockets)
	t.Cleanup(func() {
		_, _ = inFor(long, append([]string{"systemctl", "disable", "--quiet"}, all...)...)
		_, _ = inFor(long, append([]string{"systemctl", "stop"}, slices.Concat(sockets, services, late)...)...)
	})
	mustLong(t, append([]string{"systemctl", "enable", "--quiet"}, all...)...)
	must(t, "systemctl", "start", "--no-block", "sockets.target", "multi-user.target")
	active := func(units []string) {
		t.Helper()
		for end := time.Now().Add(long); ; time.Sleep(200 * time.Millisecond) {
			// It succeeds if one of them is active.
			out, _ := in(append([]string{"systemctl", "is-active"}, units...)...)
			n := strings.Count("\n"+out, "\nactive")
			if n == len(units) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%d of %d are active", n, len(units))
			}
		}
	}
	active(all)
	// TPM2_Startup(STATE) works for a TPM alone that was shut down in order.
	must(t, append([]string{"sed", "-i", "s/^startup.*/startup = \"state\"/"}, files("/etc/swtpm/fleet%03d.toml", half)...)...)

	boot := strings.TrimSpace(must(t, "journalctl", "--list-boots", "--quiet"))
	begin := time.Now()
	reboot(t)
	if now := strings.TrimSpace(must(t, "journalctl", "--list-boots", "--quiet")); now == boot {
		t.Fatalf("it was no boot: %s", now)
	}
	active(all)
	t.Logf("%d services and %d sockets were up after %v, of which the end of what ran before is a part", len(services), len(sockets), time.Since(begin).Round(time.Millisecond))
	if out, _ := in(append([]string{"systemctl", "is-active"}, late...)...); strings.Contains("\n"+out, "\nactive") {
		t.Error("a service runs before its first client has come")
	}
	begin = time.Now()
	for i := range 2 * half {
		name := fmt.Sprintf("fleet%03d", i)
		if err := try(dial(t, name), getRandom); err != nil {
			t.Errorf("%s: %v\n%s", name, err, journal(t, service(name), "short"))
		}
	}
	active(slices.Concat(services, late))
	t.Logf("all had answered a command after another %v", time.Since(begin).Round(time.Millisecond))

	disableFleet(t, all, services, sockets, late)
}

// disableFleet disables the fleet and checks that nothing starts any more.
func disableFleet(t *testing.T, all, services, sockets, late []string) {
	t.Helper()
	mustLong(t, append([]string{"systemctl", "disable", "--quiet"}, all...)...)
	mustLong(t, append([]string{"systemctl", "stop"}, slices.Concat(sockets, services, late)...)...)
	mustLong(t, "systemctl", "start", "sockets.target", "multi-user.target")
	for _, unit := range []string{services[0], late[0], sockets[0]} {
		if got := property(t, unit, "ActiveState"); got != "inactive" {
			t.Errorf("%s is %s though it was disabled", unit, got)
		}
	}
	if out := must(t, "systemctl", "list-units", "--failed", "--no-legend", "--plain", "swtpm*@fleet*"); out != "" {
		t.Errorf("failed:\n%s", out)
	}
}

// files returns the first n names that the format has.
func files(format string, n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf(format, i))
	}
	return names
}
