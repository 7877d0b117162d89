package inside_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// unit installs an instance of swtpm@.service with an example as its profile and a
// drop-in, as their first lines say.
func unit(t *testing.T, instance, example, dropIn string) {
	t.Helper()
	dir := "/etc/systemd/system/swtpm@" + instance + ".service.d"
	for _, f := range [][2]string{
		{"/usr/share/doc/swtpm-go/examples/" + example, "/etc/swtpm/" + instance + ".toml"},
		{"/usr/share/doc/swtpm-go/" + dropIn, dir + "/" + dropIn},
	} {
		if err := os.MkdirAll(filepath.Dir(f[1]), 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "cp", f[0], f[1])
	}
	run(t, "systemctl", "daemon-reload")
	t.Cleanup(func() {
		_ = exec.Command("systemctl", "stop", "swtpm@"+instance).Run()
		if t.Failed() {
			out, _ := exec.Command("journalctl", "--no-pager", "-n", "60", "-u", "swtpm@"+instance).CombinedOutput()
			t.Logf("%s", out)
		}
	})
}

// service runs an action of systemctl on an instance.
func service(t *testing.T, action, instance string, args ...string) {
	t.Helper()
	if out, err := try("systemctl", append([]string{action, "swtpm@" + instance}, args...)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// mainPID is the process of an instance.
func mainPID(t *testing.T, instance string) string {
	t.Helper()
	return strings.TrimSpace(run(t, "systemctl", "show", "-P", "MainPID", "swtpm@"+instance))
}

// powerless checks that a process has the user swtpm and can have no capability except one.
func powerless(t *testing.T, pid string) {
	t.Helper()
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^CapBnd:\s0000000000200000$`).Match(status) ||
		regexp.MustCompile(`(?m)^Uid:\s0`).Match(status) {
		t.Errorf("the process has more rights than it needs:\n%s", status)
	}
}

// unitDevice waits until the kernel has the device of an instance, and returns its names. A device that
// the kernel gives up, because its deadlines pass where everything is busy, is made again.
func unitDevice(t *testing.T, instance string) (device, manager string) {
	t.Helper()
	made := regexp.MustCompile(`New TPM device: (/dev/tpm(\d+)) `)
	until(t, "the device in the journal", func() bool {
		if state, _ := try("systemctl", "show", "-P", "ActiveState", "swtpm@"+instance); strings.TrimSpace(state) == "failed" {
			service(t, "reset-failed", instance)
			service(t, "start", instance)
		}
		log := run(t, "journalctl", "--no-pager", "-o", "cat", "-u", "swtpm@"+instance)
		all := made.FindAllStringSubmatch(log, -1)
		if len(all) == 0 {
			return false
		}
		last := all[len(all)-1]
		device, manager = last[1], "/dev/tpmrm"+last[2]
		return exists(manager)
	})
	return device, manager
}

// TestUnitContainer checks that the unit with the drop-in for containers creates a device when it
// starts and removes it when it stops.
func TestUnitContainer(t *testing.T) {
	unit(t, "ct1", "container.toml", "container.conf")
	service(t, "start", "ct1")
	device, manager := unitDevice(t, "ct1")
	run(t, "udevadm", "settle")
	tools(t, manager, "tpm2_getrandom --hex 8")
	if got := run(t, "stat", "-c", "%a %G", manager); got != "660 tss\n" {
		t.Errorf("%s is %q, want 660 tss", manager, got)
	}
	powerless(t, mainPID(t, "ct1"))
	if got := run(t, "stat", "-c", "%a %G", "/dev/vtpmx"); got != "660 swtpm-devices\n" {
		t.Errorf("/dev/vtpmx is %q, want 660 swtpm-devices", got)
	}
	service(t, "stop", "ct1")
	until(t, "the end of the device", func() bool { return !exists(device) && !exists(manager) })
	service(t, "start", "ct1")
	service(t, "stop", "ct1")
}
