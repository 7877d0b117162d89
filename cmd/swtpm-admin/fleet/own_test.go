package fleet

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// TestOwn checks that a user sees its own TPMs alone, whatever the processes of others are
// called, and no profile or state of the system.
func TestOwn(t *testing.T) {
	f := newFake(t)
	for i, uid := range []int{1000, 0, 107, 1001} {
		socket := fmt.Sprintf("/run/user/%d/vm.sock", uid)
		f.run(t, 100+i, "swtpm", socket, 0, classic(socket)...)
		f.write(t, fmt.Sprintf("proc/%d/status", 100+i), fmt.Sprintf("Uid:\t%d\t0\t0\t0\n", uid))
	}
	f.UID, f.Own = 1000, true
	if got := f.list(t); got.PID != 100 || got.UID != 1000 || got.State != Running {
		t.Errorf("%+v", got)
	}
	if h := OwnHost(); h.Own != (os.Geteuid() != 0) || h.Own && (h.States != "" || slices.Contains(h.Profiles, "/etc/swtpm")) {
		t.Errorf("%+v", h)
	}
}
