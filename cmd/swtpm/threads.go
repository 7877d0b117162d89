package main

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/cmd/swtpm/early"
)

// createThreads makes the Go runtime create all threads that it may need later, so
// that it creates none while clients are served: a limit that is reached later would end
// the TPM of a guest. helpers is true if goroutines besides the servers serve systemd, the
// metrics, a reload, a recording, a device or an incoming migration.
//
// A goroutine needs a thread while it is in a system call or in C. Each of the two servers has
// one; the helpers need one only for a moment and share two. Another thread runs Go code, also the
// main goroutine when it writes the boot ledger (writer.serve). One more waits for timers: of a
// command that waits for space on a full disk, or of the runtime when it returns memory. Signals and
// libtpms's log need none, because the loop of the control channel waits for them
// (program.MoveWatches). The runtime has two threads of its own. That makes six, or eight with
// helpers.
func createThreads(helpers bool) {
	if runtime.GOMAXPROCS(0) > 1 {
		runtime.GOMAXPROCS(1)
	}
	time.Sleep(time.Microsecond) // wakes up the thread in Go's poller, which has nothing to wait for any more
	n := 3
	if helpers {
		n += 2
	}
	create(n)
	endSurplus(n + 3)
	early.Serve()
}

// create makes the runtime create n threads in addition to the caller's thread, and leaves them
// idle. A goroutine that is bound to its thread reserves it while it waits.
func create(n int) {
	var bound, done sync.WaitGroup
	release := make(chan struct{})
	bound.Add(n)
	for range n {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			bound.Done()
			<-release
		})
	}
	bound.Wait()
	close(release)
	done.Wait()
}

// endSurplus ends idle threads that only the start needed, until at most most are left. It stops
// after 100 tries; surplus threads are not an error.
func endSurplus(most int) {
	for tries := 0; threads() > most && tries < 100; tries++ {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // the runtime ends the thread of a goroutine that ends locked
			if unix.Gettid() == unix.Getpid() {
				runtime.UnlockOSThread() // the main thread would stay, and do nothing
			}
		}()
		<-done
		time.Sleep(50 * time.Microsecond)
	}
}

// threads returns the number of threads that the Go runtime has.
func threads() int {
	n, _ := runtime.ThreadCreateProfile(nil)
	return n - 1 // one is ready for a thread that C creates
}
