package daemon

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// TestReceipt checks that a receipt waits until all earlier entries were read, also if the queue of the
// journal is full at first, and that it does not wait without a journal and after its context.
func TestReceipt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	r := openReceipt(path)
	if r == nil {
		t.Fatal("no socket")
	}
	r.wait(t.Context()) // no journal exists
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, full := range []bool{false, true} {
		send, err := openDatagrams(path)
		if err != nil {
			t.Fatal(err)
		}
		entries := 0
		for send(strings.Repeat("x", 1000), journal.PriInfo, nil) == nil {
			if entries++; !full {
				break
			}
		}
		r.wait(ended)
		if !full && !r.unread() {
			t.Error("an unread datagram counts as read")
		}
		done := make(chan struct{})
		go func() { r.wait(t.Context()); close(done) }()
		for b, waits := make([]byte, 2000), true; waits; {
			select {
			case <-done:
				waits = false
			default:
				_ = l.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
				if n, err := l.Read(b); err == nil && n > 0 {
					entries--
				}
			}
		}
		if entries != 0 {
			t.Errorf("full %v: the receipt came before %d entries were read", full, entries)
		}
	}
}
