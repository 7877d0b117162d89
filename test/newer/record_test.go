package newer_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRecords checks that a state with records goes to swtpm, which skips them and drops them when
// it stores, and back.
func TestRecords(t *testing.T) {
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte("000102030405060708090a0b0c0d0e0f"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string][]string{"plain": nil, "encrypted": {"--key", "file=" + keyFile}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			args := slices.Concat([]string{"socket", "--tpm2", "--tpmstate", "dir=" + dir, "--flags", "startup-clear"}, key)
			var made, theirs, again string
			live(t, append(ours(t), args...), func(c net.Conn) { ask(t, c, nvDefine); made = ask(t, c, nvPublic) })
			records := func() int {
				out := try(t, dir, nil, ours(t), "state", "inspect", "--json", "--tpmstate", "dir="+dir)
				return strings.Count(out.stdout, `"generation":`)
			}
			if n := records(); n != 1 {
				t.Errorf("%d records of ours", n)
			}
			live(t, append(append(reference(t), args...), "--terminate"), func(c net.Conn) { theirs = ask(t, c, nvPublic) })
			if n := records(); n != 0 {
				t.Errorf("%d records after swtpm has stored", n)
			}
			live(t, append(ours(t), args...), func(c net.Conn) { again = ask(t, c, nvPublic) })
			if made[12:20] != "00000000" || theirs != made || again != made {
				t.Errorf("ours %s, swtpm %s, ours again %s", made, theirs, again)
			}
			if n := records(); n != 1 {
				t.Errorf("%d records of ours, again", n)
			}
		})
	}
}
