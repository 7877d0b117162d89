package inside_test

import (
	"net"
	"os"
	"strings"
	"testing"
)

// lsm is one of the security modules, as these tests see it.
type lsm struct {
	emulator string                          // what /proc/PID/attr/current has for an emulator that is confined
	maker    string                          // and for what manufactures TPMs
	denied   func(line string) bool          // reports whether a record of the kernel's log is about our programs
	label    func(t *testing.T, path string) // has a program taken for the emulator; nil if the path does
	virt     func(t *testing.T)              // labels what libvirt labels; nil if there are no labels
}

var appArmor = lsm{
	emulator: "swtpm (enforce)",
	maker:    "swtpm-manufacture (enforce)",
	denied: func(line string) bool {
		return strings.Contains(line, `apparmor="DENIED"`) && strings.Contains(line, `profile="swtpm`)
	},
}

// confinement is what the machine was started with.
func confinement() lsm {
	return appArmor
}

// TestAppArmorLocal checks that the emulator does not start if its profile names a place that the
// policy denies, that it reports this, that the doctor prints the line that allows the place, and
// that it starts with this line.
func TestAppArmorLocal(t *testing.T) {
	const name, state, local = "srv", "/srv/tpm", "/etc/apparmor.d/local/usr.bin.swtpm"
	expected = append(expected, `name="/srv/tpm`)
	profile := strings.Replace(strings.Replace(passed, "/var/lib/swtpm/%i", state, 1), "systemd:", "unix:/run/swtpm/", 2)
	profile, _, _ = strings.Cut(profile, "[manufacture]")
	write(t, "/etc/swtpm/"+name+".toml", profile)
	write(t, state+"/empty", "")
	p := start(t, "swtpm", "run", name)
	p.wait(t, 1)
	if !strings.Contains(p.out.String(), state) || !strings.Contains(p.out.String(), "permission denied") {
		t.Errorf("it says %s", p.out.String())
	}
	out, err := try("swtpm", "doctor", name)
	rule := "owner " + state + "/{,**} rwk,"
	if err == nil {
		t.Errorf("the doctor finds nothing")
	}
	if !strings.Contains(out, rule) {
		t.Errorf("the doctor does not say %q: %v\n%s", rule, err, out)
	}
	write(t, local, rule+"\n")
	defer func() {
		_ = os.Remove(local)
		run(t, "apparmor_parser", "-r", "/etc/apparmor.d/usr.bin.swtpm")
	}()
	run(t, "apparmor_parser", "-r", "/etc/apparmor.d/usr.bin.swtpm")
	p = start(t, "swtpm", "run", name)
	until(t, "its socket", func() bool {
		c, err := net.Dial("unix", "/run/swtpm/data")
		if err == nil {
			_ = c.Close()
		}
		return err == nil || p.gone()
	})
	dial(t, "unix", "/run/swtpm/data").succeed(t, random20)
	p.end(t, os.Interrupt, 0)
}
