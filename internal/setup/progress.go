package setup

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A step that takes longer than showAfter is shown on a terminal and updated every
// interval.
const (
	showAfter = 300 * time.Millisecond
	interval  = 500 * time.Millisecond
)

// terminal is a manufacture.Progress that overwrites one line. The log calls clear
// before it prints.
type terminal struct {
	w io.Writer // nil shows nothing

	mu    sync.Mutex
	shown int // characters on the line
}

// Begin implements manufacture.Progress.
func (t *terminal) Begin(step string) (done func()) {
	if t.w == nil {
		return func() {}
	}
	start, end := time.Now(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		timer := time.NewTimer(showAfter)
		defer timer.Stop()
		for {
			select {
			case <-end:
				return
			case <-timer.C:
				t.show(fmt.Sprintf("creating the %s: %d s; press Ctrl-C to cancel without changes", step, int(time.Since(start).Seconds())))
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

// clear clears the line.
func (t *terminal) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shown > 0 {
		fmt.Fprintf(t.w, "\r%*s\r", t.shown, "")
		t.shown = 0
	}
}

// isTerminal reports whether f is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Terminal returns f if it is a terminal, and nil otherwise.
func Terminal(f *os.File) io.Writer {
	if isTerminal(f) {
		return f
	}
	return nil
}
