package systemd_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestLibvirt checks that a guest of libvirt with <backend type='external'> uses the socket unit
// under the same systemd: its connection starts the service, a restart and a crash of the service
// leave the guest running, its end ends the TPM, and it can start again. libvirt and QEMU's user
// are configured as on Debian.
func TestLibvirt(t *testing.T) {
	name := instance(t, "[control]\nlisten = \"systemd:ctrl\"\nterminate = true\n[tpmstate]\ndir = \"/var/lib/swtpm/%i\"\n")
	if _, err := os.Stat(inside("/usr/sbin/libvirtd")); err != nil {
		t.Skip("there is no libvirt in this container: run make systemd")
	}
	unit := service(name)
	put(t, "/root/vm.xml", 0o644, fmt.Sprintf(`<domain type='qemu'>
<name>vm</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
<tpm model='tpm-crb'><backend type='external'><source type='unix' mode='connect' path='/run/swtpm/%s/ctrl.sock'/></backend></tpm>
<memballoon model='none'/>
</devices>
</domain>
`, name))
	t.Cleanup(func() {
		if t.Failed() {
			for _, cmd := range []string{"journalctl --no-pager -u libvirtd", "cat /var/log/libvirt/qemu/vm.log", "ls -l /run/swtpm/*"} {
				out, _ := in("sh", "-c", cmd)
				t.Logf("%s", out)
			}
		}
		_, _ = in("virsh", "destroy", "vm")
	})
	dropIn(t, socket(name), "[Socket]\nSocketGroup=libvirt-qemu\n") // QEMU's user is in that group
	must(t, "systemctl", "start", "libvirtd.service", socket(name))
	virsh := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(must(t, append([]string{"virsh", "-q", "-c", "qemu:///system"}, args...)...))
	}
	running := func() {
		t.Helper()
		awaitStatus(t, unit, "TPM 2.0 is on; data, 1 client; control systemd:ctrl, 1 client; .*")
		if got := virsh("domstate", "vm"); got != "running" {
			t.Fatalf("the guest is %s", got)
		}
	}
	virsh("define", "/root/vm.xml")
	for range 2 {
		virsh("start", "vm")
		running()
		must(t, "systemctl", "restart", unit)
		running()
		killed(t, unit)
		running()
		virsh("suspend", "vm")
		virsh("resume", "vm")
		running()
		virsh("destroy", "vm")
		await(t, unit, "ActiveState", "inactive")
		if got := property(t, unit, "Result"); got != "success" {
			t.Errorf("the result is %q", got)
		}
	}
	if out := journal(t, unit, "cat"); strings.Contains(out, "starting fresh") || strings.Count(out, "a new TPM") != 2 {
		t.Errorf("it did not go on with the one TPM that it has made:\n%s", out)
	}
}
