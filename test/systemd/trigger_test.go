package systemd_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// installLibtpms replaces libtpms with a package of its name that has the same files, as an
// update of Debian does, and returns what dpkg printed.
func installLibtpms(t *testing.T, version int) string {
	t.Helper()
	return must(t, "sh", "-ec", fmt.Sprintf(`
		cd "$(mktemp -d)"
		dpkg-query --listfiles libtpms0 | grep '/usr/lib/.*/libtpms\.so' | tar --create --files-from=- --absolute-names | tar --extract --absolute-names --transform="s,^/,$PWD/deb/,"
		mkdir deb/DEBIAN
		printf 'Package: libtpms0\nVersion: 99.%d\nArchitecture: %%s\nMaintainer: nobody <nobody@localhost>\nDescription: test\n' "$(dpkg --print-architecture)" >deb/DEBIAN/control
		dpkg-deb --build --root-owner-group deb libtpms0.deb >/dev/null
		dpkg --install libtpms0.deb`, version))
}

// TestPackageTrigger checks that an update of libtpms makes dpkg run the trigger of the
// package: it reports the TPMs that need a restart, and restarts them if the host's policy
// says so, under their clients.
func TestPackageTrigger(t *testing.T) {
	name := instance(t, profile("clear"))
	if _, err := os.Stat(inside(packageFile)); err != nil {
		t.Skip("there is no package: run make debtest")
	}
	must(t, "dpkg", "--install", packageFile)
	g := newGuest(t, name)
	pid := property(t, g.unit, "MainPID")
	t.Cleanup(func() { _, _ = in("rm", "-f", "/etc/swtpm/host.toml") })

	for i, policy := range []string{"", "[upgrade]\nautomatic = false\n"} {
		put(t, "/etc/swtpm/host.toml", 0o644, policy)
		out := installLibtpms(t, i)
		if got := property(t, g.unit, "MainPID"); got != pid || !strings.Contains(out, "swtpm: 1 TPM needs a restart") || !strings.Contains(out, "restart them with: swtpm upgrade --all") {
			t.Errorf("policy %q: process %s became %s; dpkg printed\n%s", policy, pid, got, out)
		}
	}
	put(t, "/etc/swtpm/host.toml", 0o644, "[upgrade]\nautomatic = true\n")
	out := installLibtpms(t, 2)
	now := property(t, g.unit, "MainPID")
	if now == pid || !strings.Contains(out, "swtpm: 1 TPM needs a restart") || !strings.Contains(out, "1 restarted, 0 cannot be, ") {
		t.Errorf("process %s became %s; dpkg printed\n%s", pid, now, out)
	}
	g.continues(t)
	if maps := must(t, "grep", "libtpms", "/proc/"+now+"/maps"); strings.Contains(maps, "(deleted)") {
		t.Errorf("the new process has mapped\n%s", maps)
	}
	g.breaks(t)
}

// breaks checks that a TPM that does not come back fails no installation of a package.
func (g *guest) breaks(t *testing.T) {
	t.Helper()
	dropIn(t, g.unit, "[Service]\nExecStart=\nExecStart=/bin/false\n")
	if out := installLibtpms(t, 3); !strings.Contains(out, g.name+": ") || !strings.Contains(out, "0 restarted, ") {
		t.Errorf("dpkg printed\n%s", out)
	}
	must(t, "rm", "-r", "/etc/systemd/system/"+g.unit+".d")
	must(t, "systemctl", "daemon-reload")
	must(t, "systemctl", "reset-failed", g.unit)
}
