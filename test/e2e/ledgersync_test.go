package e2e_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestLedgerSyncs checks that the boot ledger makes no process sync a file once more.
func TestLedgerSyncs(t *testing.T) {
	t.Parallel()
	strace := harness.Need(t, "strace", "strace")
	syncs := map[string]int{}
	for _, keep := range []string{"none", "boots"} {
		dir := harness.TempDir(t)
		state := filepath.Join(dir, "state")
		mkdir(t, state)
		text := mustRun(t, ours("swtpm"), "convert", "--", "socket", "--tpm2", "--tpmstate", "dir="+state,
			"--server", "type=unixio,path="+filepath.Join(dir, "d"), "--flags", "not-need-init,startup-clear", "--terminate")
		if keep == "none" {
			text = strings.Replace(text, "keep  = \"boots\"\nboots = 16", `keep = "none"`, 1)
		}
		if !strings.Contains(text, `"`+keep+`"`) {
			t.Fatalf("no %q in\n%s", keep, text)
		}
		path, trace := filepath.Join(dir, "profile.toml"), filepath.Join(dir, "trace")
		write(t, path, []byte(text))
		p := harness.Start(t, exec.Command(strace, "-f", "-o", trace, "-e", "trace=fsync,fdatasync,sync,syncfs,sync_file_range", ours("swtpm"), "run", path))
		if err := harness.Until(func() bool { return p.Ended() || harness.Listens(filepath.Join(dir, "d")) }); err != nil || p.Ended() {
			t.Fatal(p.Out.String())
		}
		conn := connect(t, filepath.Join(dir, "d"))
		c := &channel{conn, v20}
		for range 40 {
			cmd, _ := v20.extend(1, make([]byte, 32))
			c.ok(t, cmd)
		}
		if keep == "boots" {
			awaitBoot(t, state, v20)
		}
		c.ok(t, "8001 0000000c 00000145 0000")
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(t); code != 0 {
			t.Fatalf("exit code %d: %s", code, p.Out.String())
		}
		if b := lastBoot(state, v20); (b != nil) != (keep == "boots") {
			t.Errorf("keep = %q: boot %+v", keep, b)
		}
		syncs[keep] = strings.Count(harness.Read(t, trace), "sync(")
	}
	if syncs["none"] < 2 || syncs["boots"] != syncs["none"] {
		t.Errorf("syncs: %v", syncs)
	}
}
