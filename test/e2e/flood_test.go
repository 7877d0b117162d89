package e2e_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestLogFlood checks that a client whose requests are all refused cannot fill the disk: its
// lines are counted, and lines of other kinds are still written.
func TestLogFlood(t *testing.T) {
	t.Parallel()
	state := harness.TempDir(t)
	e := start(t, setup{tpm: v20, state: state})
	c := e.control(t)
	if err := c.Init(0); err != nil {
		t.Fatal(err)
	}
	raw, err := net.Dial("unix", e.ctrl)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(harness.EventTimeout))
	ask := func(request string) {
		t.Helper()
		if _, err := raw.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		if _, err := raw.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	const n = 3000
	for i := range n {
		ask("\xde\xad" + string([]byte{byte(i >> 8), byte(i)}))                 // unknown
		ask("\x00\x00\x00\x0d\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00") // SET_STATEBLOB while the TPM is on
		if half, err := net.Dial("unix", e.ctrl); err == nil {                  // the backlog may be full
			_, _ = half.Write([]byte("\x00\x00"))
			_ = half.Close()
		}
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	for range n {
		_ = c.SetState(tpm.Permanent, 0, []byte("rubbish of some bytes"))
	}
	if err := os.WriteFile(filepath.Join(state, v20.file()), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Init(0); err == nil {
		t.Error("INIT of a damaged state: success")
	}
	e.terminate(t)
	log := harness.Read(t, e.log)
	if len(log) > 40_000 {
		t.Errorf("%d requests that were refused left a log of %d bytes:\n%.2000s", 4*n, len(log), log)
	}
	if !strings.Contains(log, "restore the file from a backup") {
		t.Errorf("the flood has suppressed the line on the damaged state:\n%s", log)
	}
	if !strings.Contains(log, "similar lines suppressed: ") {
		t.Errorf("the log has no line with the number of suppressed lines:\n%s", log)
	}
}
