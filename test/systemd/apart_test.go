package systemd_test

import (
	"strings"
	"testing"
)

// TestApart checks that a TPM sees neither the state nor the sockets of another TPM, which has the
// same user.
func TestApart(t *testing.T) {
	one, other := instance(t, profile("clear")), "testapart2"
	put(t, "/etc/swtpm/"+other+".toml", 0o644, profile("clear"))
	t.Cleanup(func() { _, _ = in("systemctl", "stop", service(other)) })
	for _, name := range []string{other, one} {
		must(t, "systemctl", "start", service(name))
		command(t, dial(t, name), getRandom)
	}
	root := "/proc/" + property(t, service(one), "MainPID") + "/root"
	// The marks of all TPMs are in one directory, which a TPM cannot list.
	for dir, want := range map[string]string{"/var/lib/swtpm": "marks\n" + one, "/run/swtpm": one} {
		if got := strings.TrimSpace(must(t, "ls", root+dir)); got != want {
			t.Errorf("%s has %q, want %q", dir, got, want)
		}
	}
}
