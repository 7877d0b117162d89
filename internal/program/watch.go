package program

import (
	"os"
	"slices"
	"sync"
	"time"
)

// Loop is a loop that waits for descriptors and deadlines on a thread of its own.
type Loop interface {
	// Watch calls ready on the loop's thread each time fd can be read, until ready
	// returns false.
	Watch(fd int, ready func() bool) bool
	// After calls f on the loop's thread once d has passed.
	After(d time.Duration, f func()) bool
}

// watches contains the files of all calls of Watch. While no goroutine waits in Go's poller and no
// timer runs, the Go runtime needs one thread less. Therefore a Loop waits for the files, if the
// program has one.
var watches struct {
	sync.Mutex
	loop Loop // nil if goroutines wait
	all  []*watch
}

// watch is one call of Watch.
type watch struct {
	f     *os.File
	fd    int
	ready func() bool

	mu   sync.Mutex
	loop Loop // that waits; nil if a goroutine does
	done bool // ready has returned false
}

// Watch calls ready now, and then each time f can be read, until ready returns false; then it
// closes f, which must be in Go's poller. ready must not wait for f. A goroutine calls it, or the
// Loop that MoveWatches was called with.
func Watch(f *os.File, ready func() bool) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	w := &watch{f: f, ready: ready}
	if err := raw.Control(func(fd uintptr) { w.fd = int(fd) }); err != nil {
		return err
	}
	watches.Lock()
	defer watches.Unlock()
	watches.all = append(slices.DeleteFunc(watches.all, (*watch).ended), w)
	w.start(watches.loop)
	return nil
}

// MoveWatches makes l wait for all files of Watch, and for the deadlines of After, from now on;
// nil makes goroutines wait again.
func MoveWatches(l Loop) {
	watches.Lock()
	defer watches.Unlock()
	watches.loop = l
	watches.all = slices.DeleteFunc(watches.all, (*watch).ended)
	for _, w := range watches.all {
		w.start(l)
	}
}

// After calls f once d has passed, on a goroutine, or on the thread of the Loop.
func After(d time.Duration, f func()) {
	watches.Lock()
	defer watches.Unlock()
	if watches.loop == nil || !watches.loop.After(d, f) {
		time.AfterFunc(d, f)
	}
}

// start makes l wait for w, or a goroutine if l is nil or has ended. An earlier wait
// ends with its next event at the latest.
func (w *watch) start(l Loop) {
	w.mu.Lock()
	w.loop = l
	w.mu.Unlock()
	if l != nil {
		_ = w.f.SetReadDeadline(time.Unix(1, 0)) // ends the goroutine
		if l.Watch(w.fd, func() bool { return w.call(l) || w.close() }) {
			return
		}
		w.mu.Lock()
		w.loop = nil
		w.mu.Unlock()
	}
	_ = w.f.SetReadDeadline(time.Time{})
	go w.wait()
}

// wait calls ready until it returns false, or a Loop waits.
func (w *watch) wait() {
	raw, err := w.f.SyscallConn()
	if err == nil {
		_ = raw.Read(func(uintptr) bool { return !w.call(nil) })
	}
	w.close()
}

// close closes the file if ready has returned false. It returns false.
func (w *watch) close() bool {
	if w.ended() {
		_ = w.f.Close()
	}
	return false
}

// call calls ready for l, and reports whether l must continue to wait.
func (w *watch) call(l Loop) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.loop != l || w.done {
		return false
	}
	w.done = !w.ready()
	return !w.done
}

func (w *watch) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done
}
