package e2e_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// permanentVector returns a directory with the permanent state of a TPM 2.0 only.
func permanentVector(t *testing.T) string {
	t.Helper()
	dir := vector(t, v20)
	if err := os.Remove(filepath.Join(dir, "tpm2-00.volatilestate")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestStartSyncs checks that a start syncs one state: the one that its Startup stores, or the
// loaded one if there is no Startup, and that it syncs before the first response.
func TestStartSyncs(t *testing.T) {
	t.Parallel()
	strace := harness.Need(t, "strace", "strace")
	for startup, want := range map[string]struct {
		calls    string
		response string // of GetRandom
	}{
		"startup-clear": {"fsync renameat fsync sendto", "8001 00000014"},
		"startup-none":  {"fsync fsync sendto", "8001 0000000a 00000100"},
	} {
		dir, state := harness.TempDir(t), permanentVector(t)
		trace := filepath.Join(dir, "trace")
		p := harness.Start(t, exec.Command(strace, "-f", "-o", trace, "-e", "trace=fsync,fdatasync,renameat,sendto", ours("swtpm"), "socket", "--tpm2",
			"--tpmstate", "dir="+state, "--server", "type=unixio,path="+filepath.Join(dir, "d"), "--terminate", "--flags", "disable-auto-shutdown,not-need-init,"+startup))
		if err := harness.Until(func() bool { return p.Ended() || harness.Listens(filepath.Join(dir, "d")) }); err != nil || p.Ended() {
			t.Fatal(p.Out.String())
		}
		conn := connect(t, filepath.Join(dir, "d"))
		c := &channel{conn, v20}
		rsp, err := c.transmit("8001 0000000c 0000017b 0008")
		if err != nil || !bytes.HasPrefix(rsp, harness.Unhex(want.response)) {
			t.Errorf("%s: response %x, %v; want %s", startup, rsp, err, want.response)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		if code := p.Wait(t); code != 0 {
			t.Fatalf("%s: exit code %d: %s", startup, code, p.Out.String())
		}
		var got []string
		for line := range strings.Lines(harness.Read(t, trace)) {
			if _, call, _ := strings.Cut(line, " "); !strings.Contains(line, "resumed>") && strings.Contains(call, "(") {
				name, _, _ := strings.Cut(strings.TrimSpace(call), "(")
				got = append(got, name)
			}
		}
		if s := strings.Join(got, " "); s != want.calls {
			t.Errorf("%s: calls %s, want %s", startup, s, want.calls)
		}
	}
}
