package daemon

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
)

// TestDatagrams checks the bytes of an entry, and that an entry is an error if no journal exists.
func TestDatagrams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	send, err := openDatagrams(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := send("too early", journal.PriWarning, nil); err == nil {
		t.Error("an entry is sent although no journal exists")
	}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := send("text", journal.PriWarning, map[string]string{"SWTPM_CAUSE": "a\nb"}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 200)
	n, err := l.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(b[:n]), "PRIORITY=4\nMESSAGE=text\nSWTPM_CAUSE\n\x03\x00\x00\x00\x00\x00\x00\x00a\nb\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// The journal is slow: the entries that do not fit are errors, and nothing waits.
	for range 10000 {
		if err = send(strings.Repeat("x", 1000), journal.PriInfo, nil); err != nil {
			return
		}
	}
	t.Error("10,000 entries were sent to a journal that reads none")
}
