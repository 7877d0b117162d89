package threads

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestGo checks that functions run one after the other on a thread of their own, also those that
// come while one runs, and that a thread is created again after the last one has ended.
func TestGo(t *testing.T) {
	runtime.LockOSThread() // without cgo the function runs on a goroutine, on any other thread
	defer runtime.UnlockOSThread()
	for range 3 {
		var ran []int
		begun, release, done := make(chan int), make(chan struct{}), make(chan struct{})
		if !Go(func() { begun <- unix.Gettid(); <-release; ran = append(ran, 1) }) {
			t.Fatal("Go() = false, want a thread")
		}
		if tid := <-begun; tid == unix.Gettid() {
			t.Error("the function runs on the thread of the caller")
		}
		Go(func() { ran = append(ran, 2) })
		Go(func() { close(done) })
		close(release)
		<-done
		if len(ran) != 2 || ran[0] != 1 || ran[1] != 2 {
			t.Errorf("ran %v, want 1 and 2 in order", ran)
		}
		for end := time.Now().Add(time.Minute); working(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the thread does not end")
			}
		}
	}
}

func working() bool {
	jobs.Lock()
	defer jobs.Unlock()
	return jobs.running
}

// TestCount checks that threads of the Go runtime are counted, and the thread of Go is not.
func TestCount(t *testing.T) {
	if n := Count(); n < 2 { // the main thread and sysmon
		t.Fatalf("Count() = %d, want at least two", n)
	}
	counts := make(chan int)
	for range 100 { // the runtime may create a thread meanwhile
		before := Count()
		Go(func() { counts <- Count() })
		if <-counts == before {
			return
		}
	}
	t.Error("the thread of Go is counted")
}
