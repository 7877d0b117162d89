package systemd_test

import (
	"strings"
	"testing"
)

// TestInherited checks a socket of systemd that is named by its number, without a profile, as
// systemd-vmspawn and others start an emulator: --ctrl type=unixio,fd=3.
func TestInherited(t *testing.T) {
	name := instance(t, "")
	unit, sock, state := name+"-vmspawn", "/run/"+name+".sock", "/var/lib/"+name
	must(t, "mkdir", state)
	must(t, "systemd-run", "--unit="+unit, "--socket-property=ListenStream="+sock, "--socket-property=SocketMode=0600",
		"--property=Type=simple", "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--ctrl", "type=unixio,fd=3")
	t.Cleanup(func() { _, _ = in("systemctl", "stop", unit+".socket", unit+".service") })
	if got := property(t, unit+".service", "ActiveState"); got != "inactive" {
		t.Fatalf("the service is %s before anybody came", got)
	}
	out := must(t, "swtpm_ioctl", "--unix", sock, "-i")
	if strings.TrimSpace(out) != "" {
		t.Errorf("swtpm_ioctl says %q", out)
	}
	must(t, "test", "-s", state+"/tpm2-00.permall")
	must(t, "swtpm_ioctl", "--unix", sock, "-s")
	await(t, unit+".service", "ActiveState", "inactive")
	if got := property(t, unit+".service", "Result"); got != "success" {
		t.Errorf("the result is %q", got)
	}
	must(t, "swtpm_ioctl", "--unix", sock, "-g") // starts it again
}
