package systemd_test

import (
	"os"
	"strings"
	"testing"
)

// packageFile is where make debtest puts the package.
const packageFile = "/swtpm-go.deb"

// TestPackage checks the Debian package: a TPM works, an upgrade keeps the clients of TPMs whose
// descriptors systemd stores, and does not restart the others, such as the device of a container;
// a removal stops the TPMs in order, and a purge leaves only states and the files that belong to
// them.
func TestPackage(t *testing.T) {
	name := instance(t, profile("clear"))
	if _, err := os.Stat(inside(packageFile)); err != nil {
		t.Skip("there is no package: run make debtest")
	}
	unit := service(name)
	must(t, "dpkg", "--install", packageFile)
	for _, program := range []string{"swtpm", "swtpm_ioctl", "swtpm-ioctl", "swtpm_setup", "swtpm_cert", "swtpm_localca", "swtpm_bios"} {
		must(t, "test", "-x", "/usr/bin/"+program)
	}
	if out := must(t, "dpkg", "--verify", "swtpm-go"); out != "" {
		t.Errorf("dpkg --verify says\n%s", out)
	}
	fresh := name + "-fresh" // without a profile of its own
	must(t, "systemctl", "start", service(fresh))
	command(t, dial(t, fresh), getRandom)
	must(t, "systemctl", "stop", service(fresh))

	must(t, "systemctl", "enable", "--now", unit)
	c := dial(t, name)
	command(t, c, getRandom)
	pid := property(t, unit, "MainPID")
	alone := name + "-alone"
	put(t, "/etc/swtpm/"+alone+".toml", 0o644, profile("clear")+"\n[service]\nkeep-session = \"no\"\n")
	must(t, "systemctl", "start", service(alone))
	pidAlone := property(t, service(alone), "MainPID")

	told := must(t, "dpkg", "--install", packageFile) // an upgrade, to the same
	if got := property(t, service(alone), "MainPID"); got != pidAlone || !strings.Contains(told, service(alone)+" is still the version before") {
		t.Errorf("a TPM that nothing is kept of had the process %s before the upgrade, and has %s\n%s", pidAlone, got, told)
	}
	must(t, "systemctl", "stop", service(alone))
	await(t, unit, "ActiveState", "active")
	now := property(t, unit, "MainPID")
	if now == pid {
		t.Error("the upgrade has not restarted the service")
	}
	command(t, c, getRandom)
	_ = c.Close()

	removePackage(t, name, unit, now)
}

// removePackage removes the package, purges it and installs it again.
func removePackage(t *testing.T, name, unit, now string) {
	t.Helper()
	must(t, "dpkg", "--remove", "swtpm-go")
	if _, err := in("test", "-d", "/proc/"+now); err == nil {
		t.Error("the TPM runs still")
	}
	if out, err := in("test", "-e", "/usr/bin/swtpm"); err == nil {
		t.Errorf("the program is still there: %s", out)
	}
	out := must(t, "dpkg", "--purge", "swtpm-go")
	for _, dir := range []string{"/var/lib/swtpm", "/etc/swtpm"} {
		if want := "swtpm-go: " + dir + " is not empty and stays"; !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	must(t, "test", "-s", "/var/lib/swtpm/"+name+"/tpm2-00.permall")
	if out, err := in("dpkg-query", "--show", "swtpm-go"); err == nil {
		t.Errorf("dpkg knows it still: %s", out)
	}
	left := must(t, "find", "/usr", "/lib", "/etc", "/run", "-name", "*swtpm*", "-not", "-path", "/etc/swtpm*", "-not", "-path", "/run/systemd/*", "-not", "-path", "/run/credentials*")
	if left != "" {
		t.Errorf("left behind:\n%s", left)
	}

	// The state still belongs to the TPM: a new installation goes on with it.
	must(t, "dpkg", "--install", packageFile)
	put(t, "/etc/swtpm/"+name+".toml", 0o644, profile("state")) // works after TPM2_Shutdown only
	must(t, "systemctl", "start", unit)
	command(t, dial(t, name), getRandom)
}
