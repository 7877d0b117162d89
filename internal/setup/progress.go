package setup

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A key that takes longer than patience is told of on a terminal, every interval
// anew.
const (
	patience = 300 * time.Millisecond
	interval = 500 * time.Millisecond
)

// terminal is a manufacture.Progress: a line that is written over until it is done. The
// messages call clear before they print.
type terminal struct {
	w io.Writer // nil shows nothing

	mu    sync.Mutex
	shown int // letters on the line
}

// Begin shows what until done is called.
func (t *terminal) Begin(what string) (done func()) {
	if t.w == nil {
		return func() {}
	}
	start, end := time.Now(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		for {
			select {
			case <-end:
				return
			case <-timer.C:
				t.show(fmt.Sprintf("creating the %s: %d s; Ctrl-C leaves everything as it was", what, int(time.Since(start).Seconds())))
				timer.Reset(interval)
			}
		}
	})
	return func() {
		close(end)
		wg.Wait()
		t.clear()
	}
}

func (t *terminal) show(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.w, "\r%-*s", t.shown, s)
	t.shown = len(s)
}

// clear takes the line away.
func (t *terminal) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shown > 0 {
		fmt.Fprintf(t.w, "\r%*s\r", t.shown, "")
		t.shown = 0
	}
}

// isTerminal says whether f is one.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Terminal returns f if it is a terminal, else nil.
func Terminal(f *os.File) io.Writer {
	if isTerminal(f) {
		return f
	}
	return nil
}
