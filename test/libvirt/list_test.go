package libvirt_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"testing"
)

// listed checks that swtpm list has the TPM of a running virtual machine, with the name of
// the machine and the program that started the TPM.
func listed(t *testing.T, vm, manager string) {
	t.Helper()
	out, err := exec.Command("swtpm", "list", "--json", "--no-doctor").Output()
	if err != nil {
		t.Fatalf("swtpm list: %v", err)
	}
	type listing struct {
		VM, Manager, State, Restart string
		Clients                     int
	}
	var l struct{ TPMs []listing }
	if err := json.Unmarshal(out, &l); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := listing{vm, manager, "running", "not needed", 1}
	if !slices.Contains(l.TPMs, want) {
		t.Errorf("no %+v in %s", want, out)
	}
}
