package broker

import (
	"os"
	"testing"
)

// TestParseCgroup checks which unit a process has; a service cannot take the name of another one.
func TestParseCgroup(t *testing.T) {
	for text, want := range map[string]string{
		"0::/swtpm.slice/swtpm@vm1.service\n":                                            "swtpm@vm1.service",
		"0::/swtpm.slice/swtpm@vm1.service/swtpm@vm2.service\n":                          "swtpm@vm1.service",
		"0::/system.slice/virtqemud.service\n":                                           "virtqemud.service",
		"0::/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope/libvirt/emulator\n":          "machine-qemu\\x2d1\\x2dvm1.scope",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/swtpm@vm2.service\n": "user@1000.service",
		"12:cpu:/x.service\n1:name=systemd:/swtpm.slice/swtpm@vm3.service\n":             "swtpm@vm3.service",
		"0::/a.slice/a-b.slice/swtpm@vm1.service\n":                                      "swtpm@vm1.service",
		"0::/../swtpm.slice/swtpm@vm1.service\n":                                         "",
		"0::/swtpm.slice/../swtpm@vm1.service\n":                                         "",
		"0::/lxc.payload.c1/swtpm.slice/swtpm@vm1.service\n":                             "",
		"0::/docker/0123/swtpm.slice/swtpm@vm1.service\n":                                "",
		"0::/kubepods/besteffort/pod1/swtpm.slice/swtpm@vm1.service\n":                   "",
		"0::swtpm@vm1.service\n":                                                         "",
		"0::/a.slice\n":                                                                  "",
		"1:name=systemd:/lxc/c1/swtpm@vm1.service\n0::/swtpm@vm1.service\n":              "",
		"12:cpu:/x.service\n":                                                            "",
		"0::/\n":                                                                         "",
		"":                                                                               "",
	} {
		if got := parseCgroup(text); got != want {
			t.Errorf("parseCgroup(%q) = %q, want %q", text, got, want)
		}
	}
	if got := unitOf(1 << 30); got != "" {
		t.Errorf("unit of no process: %q", got)
	}
	_ = unitOf(os.Getpid())
}
