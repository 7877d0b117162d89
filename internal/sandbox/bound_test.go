//go:build cgo && !record

package sandbox

import (
	"strings"
	"syscall"
	"testing"
)

// TestBound checks that the bounding set is empty on every thread, and that a user who may
// not empty it is confined all the same.
func TestBound(t *testing.T) {
	needRoot(t)
	out, err := child(t, "bound:"+t.TempDir(), nil)
	if err != nil || strings.Count(out, "CapBnd:\t0000000000000000\n") < 6 || strings.Count(out, "CapBnd") != strings.Count(out, "CapBnd:\t0000000000000000\n") {
		t.Errorf("root: %v\n%s", err, out)
	}
	out, err = child(t, "bound:/tmp", &syscall.Credential{Uid: 4711, Gid: 4711})
	if err != nil || strings.Contains(out, "CapBnd:\t0000000000000000\n") {
		t.Errorf("an ordinary user: %v\n%s", err, out)
	}
}

// TestCheckThread checks that each privilege that a thread still has is found.
func TestCheckThread(t *testing.T) {
	const none, one = "0000000000000000", "0000000000000002"
	status := func(prm, bnd, seccomp string) string {
		return "Name:\tx\nCapInh:\t" + none + "\nCapPrm:\t" + prm + "\nCapEff:\t" + prm + "\nCapBnd:\t" + bnd + "\nCapAmb:\t" + none +
			"\nNoNewPrivs:\t1\nSeccomp:\t" + seccomp + "\n"
	}
	for _, c := range []struct {
		a      Active
		status string
		want   string // "" for no error
	}{
		{Active{Seccomp: "kill", bounded: true}, status(none, none, "2"), ""},
		{Active{Seccomp: "kill"}, status(none, "000001ffffffffff", "2"), ""},
		{Active{}, status(none, none, "0"), ""},
		{Active{Rights: 2}, status(one, none, "0"), ""},
		{Active{Rights: 2}, status("0000000000000003", none, "0"), "CapPrm is 0000000000000003, not 0000000000000002"},
		{Active{Seccomp: "kill", bounded: true}, status(none, one, "2"), "CapBnd is 0000000000000002, not 0000000000000000"},
		{Active{Seccomp: "kill"}, status(none, none, "0"), "Seccomp is 0, not 2"},
		{Active{}, status(one, none, "0"), "CapPrm is 0000000000000002, not 0000000000000000"},
		{Active{}, strings.Replace(status(none, none, "0"), "CapInh", "CapInhX", 1), "missing CapInh in the status of a thread"},
		{Active{}, "CapInh:\t" + none + "\n", "missing "},
	} {
		got := ""
		if err := c.a.checkThread([]byte(c.status)); err != nil {
			got = err.Error()
		}
		if got != c.want && (c.want == "" || !strings.HasPrefix(got, c.want)) {
			t.Errorf("checkThread(%+v, %q) = %q, want %q", c.a, c.status, got, c.want)
		}
	}
}
