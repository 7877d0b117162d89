package newer_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFullDisk checks that a newer libtpms can be restarted after a store that failed,
// too: PCR, session and index exist, and the command succeeds with space again.
func TestFullDisk(t *testing.T) {
	for _, v := range []struct {
		args    []string
		define  string
		live    []string
		state   []string
		refusal string
	}{
		{[]string{"--tpm2"}, nvDefine,
			[]string{"8001 0000002b 00000176 40000007 40000007 0010 00112233445566778899aabbccddeeff 0000 00 0010 000b",
				"8002 00000041 00000182 00000001 00000009 40000009 0000 00 0000 00000001 000b " + strings.Repeat("11", 32)},
			[]string{"8001 00000016 0000017a 00000001 02000000 00000010", "8001 00000014 0000017e 00000001 000b 03 020000",
				"8001 00000016 0000017a 00000001 01000000 00000010"},
			"80010000000a00000923"},
		{nil, "00c1 00000065 000000cc 0018 00001234 0003 000000 1f" + strings.Repeat("00", 20) + "0003 000000 1f" + strings.Repeat("00", 20) +
			"0017 00000002 00 00 00 00000008" + strings.Repeat("00", 20),
			[]string{"00c1 0000000a 0000000a", "00c1 00000022 00000014 00000001 " + strings.Repeat("11", 20)},
			[]string{"00c1 0000000e 00000015 00000001", "00c1 00000012 00000065 0000000d 00000000"},
			"00c40000000a00000800"},
	} {
		t.Run(strings.Join(v.args, " "), func(t *testing.T) {
			words := ours(t)
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=192k"); err != nil {
				t.Skipf("needs root with the right to mount: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
			words = append(append(words, "socket", "--tpmstate", "dir="+dir+",on-full=fail", "--flags", "startup-clear"), v.args...)
			live(t, words, func(c net.Conn) {
				for _, cmd := range v.live {
					if rsp := ask(t, c, cmd); rsp[12:20] != "00000000" {
						t.Fatalf("%.40s: %s", cmd, rsp)
					}
				}
				before := make([]string, len(v.state))
				for i, cmd := range v.state {
					before[i] = ask(t, c, cmd)
				}
				filler := filepath.Join(dir, "filler")
				_ = os.WriteFile(filler, make([]byte, 1<<20), 0o600) // as much as there is room for
				for range 2 {
					if rsp := ask(t, c, v.define); rsp != v.refusal {
						t.Errorf("response on a full disk: %s, want %s", rsp, v.refusal)
					}
					for i, cmd := range v.state {
						if rsp := ask(t, c, cmd); rsp != before[i] {
							t.Errorf("%.40s: %s, want %s", cmd, rsp, before[i])
						}
					}
				}
				if err := os.Remove(filler); err != nil {
					t.Fatal(err)
				}
				if rsp := ask(t, c, v.define); rsp[12:20] != "00000000" {
					t.Errorf("response with space again: %s", rsp)
				}
			})
		})
	}
}
