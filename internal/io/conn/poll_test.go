package conn

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPollNow checks that signals do not end a poll without a result.
func TestPollNow(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG) // which Go's runtime ignores
			}
		}
	}()
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if is, err := PollNow(pair[0], 0); is != 0 || err != nil {
			t.Errorf("events %#x: %v", is, err)
			break
		}
	}
	close(stop)
	<-stopped
	unix.Close(pair[1])
	if is, err := PollNow(pair[0], 0); is != unix.POLLHUP || err != nil {
		t.Errorf("events of a socket without a peer %#x: %v", is, err)
	}
}
