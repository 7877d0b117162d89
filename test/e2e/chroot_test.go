package e2e_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestNotifyFromChroot checks that systemd, whose socket is outside of the new root directory, is
// notified that the TPM is ready.
func TestNotifyFromChroot(t *testing.T) {
	t.Parallel()
	needRoot(t, "it changes the root directory")
	dir := harness.TempDir(t)
	jail := filepath.Join(dir, "jail")
	must(t, os.MkdirAll(jail, 0o777))
	must(t, os.Chown(jail, 4711, 4711))
	ready := filepath.Join(dir, "n")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: ready})
	must(t, err)
	defer func() { _ = notify.Close() }()
	must(t, os.Chmod(ready, 0o777))
	cmd := exec.Command(ours("swtpm"), "socket", "--tpm2", "-R", jail, "-r", "4711", "--tpmstate", "dir=/", "--ctrl", "type=unixio,path=/c")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+ready)
	p := harness.Start(t, cmd)
	must(t, notify.SetReadDeadline(time.Now().Add(harness.EventTimeout)))
	b := make([]byte, 64)
	n, err := notify.Read(b)
	if err != nil || !strings.HasPrefix(string(b[:n]), "READY=1\n") {
		t.Errorf("systemd got %q, %v, want READY=1\n%s", b[:n], err, p.Out.String())
	}
	must(t, p.Cmd.Process.Signal(unix.SIGTERM))
	if code := p.Wait(t); code != 0 {
		t.Errorf("exit %d\n%s", code, p.Out.String())
	}
}
