package systemd_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Two hundred TPMs come up as at boot, by their targets: half of them at once, the
// other half with their first client. Then they are disabled, and nothing comes up.
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
		_, _ = in(append([]string{"systemctl", "disable", "--quiet"}, all...)...)
		_, _ = in(append([]string{"systemctl", "stop"}, slices.Concat(sockets, services, late)...)...)
	})
	must(t, append([]string{"systemctl", "enable", "--quiet"}, all...)...)
	begin := time.Now()
	must(t, "systemctl", "start", "sockets.target", "multi-user.target")
	// What a target wants is not waited for.
	active := func(units []string) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
			out, err := in(append([]string{"systemctl", "is-active"}, units...)...)
			if err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%d of %d are active", strings.Count("\n"+out, "\nactive"), len(units))
			}
		}
	}
	active(all)
	t.Logf("%d services and %d sockets were up after %v", len(services), len(sockets), time.Since(begin).Round(time.Millisecond))
	if out, _ := in(append([]string{"systemctl", "is-active"}, late...)...); strings.Contains("\n"+out, "\nactive") {
		t.Error("a service runs before its first client has come")
	}
	begin = time.Now()
	for i := range 2 * half {
		command(t, dial(t, fmt.Sprintf("fleet%03d", i)), getRandom)
	}
	active(slices.Concat(services, late))
	t.Logf("all had answered a command after another %v", time.Since(begin).Round(time.Millisecond))

	must(t, append([]string{"systemctl", "disable", "--quiet"}, all...)...)
	must(t, append([]string{"systemctl", "stop"}, slices.Concat(sockets, services, late)...)...)
	must(t, "systemctl", "start", "sockets.target", "multi-user.target")
	for _, unit := range []string{services[0], late[0], sockets[0]} {
		if got := property(t, unit, "ActiveState"); got != "inactive" {
			t.Errorf("%s is %s though it was disabled", unit, got)
		}
	}
	if out := must(t, "systemctl", "list-units", "--failed", "--no-legend", "--plain", "swtpm*@fleet*"); out != "" {
		t.Errorf("failed:\n%s", out)
	}
}
