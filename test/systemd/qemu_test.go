package systemd_test

import (
	"os/exec"
	"testing"
)

// TestQEMU checks that QEMU connects to the socket unit as to any swtpm, powers the TPM on and
// passes its own data channel, and that the TPM starts and ends with the virtual machine.
func TestQEMU(t *testing.T) {
	name := instance(t, "[control]\nlisten = \"systemd:ctrl\"\nterminate = true\n[tpmstate]\ndir = \"/var/lib/swtpm/%i\"\n")
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal("install the package qemu-system-x86: ", err)
	}
	unit := service(name)
	must(t, "systemctl", "start", socket(name))
	for range 2 {
		vm := exec.Command(qemu, "-nodefaults", "-display", "none", "-machine", "q35", "-m", "64",
			"-chardev", "socket,id=c,path="+inside("/run/swtpm/"+name+"/ctrl.sock"),
			"-tpmdev", "emulator,id=t,chardev=c", "-device", "tpm-crb,tpmdev=t")
		if err := vm.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = vm.Process.Kill(); _ = vm.Wait() })
		await(t, unit, "ActiveState", "active")
		awaitStatus(t, unit, "TPM 2.0 is on; data, 1 client; control systemd:ctrl, 1 client; .*")
		if err := vm.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		await(t, unit, "ActiveState", "inactive")
		if got := property(t, unit, "Result"); got != "success" {
			t.Errorf("the result is %q", got)
		}
	}
}
