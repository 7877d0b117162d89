package libvirt_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// listed waits until swtpm list has the TPM of a running virtual machine, with the name of the
// machine and the program that started the TPM: what does not answer within seconds, as on a busy
// machine, is missing in a list.
func listed(t *testing.T, vm, manager string) {
	t.Helper()
	type listing struct {
		VM, Manager, State, Restart string
		Clients                     int
	}
	want := listing{vm, manager, "running", "not needed", 1}
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out, err := exec.Command("swtpm", "list", "--json", "--no-doctor").Output()
		if err != nil {
			t.Fatalf("swtpm list: %v", err)
		}
		var l struct{ TPMs []listing }
		if err := json.Unmarshal(out, &l); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if slices.Contains(l.TPMs, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no %+v in %s", want, out)
		}
	}
}
