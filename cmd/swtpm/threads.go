package main

import (
	"runtime"
	"sync"

	"github.com/swtpm-go/swtpm/internal/early"
)

// createThreads makes the Go runtime create, now, all threads that it may need later, so
// that it creates none while clients are served: a limit that is reached later would end
// the TPM of a guest. helpers is true if goroutines besides the servers serve systemd, the
// metrics, a reload, a recording or a device.
//
// A goroutine needs a thread while it is in a system call or in C: those of the two
// servers, of the signals and of libtpms's log, and the helpers, which need one only for a
// moment and share two. Another thread runs Go code, and one waits in the
// poller. The runtime has two threads of its own. That makes eight, or ten.
func createThreads(helpers bool) {
	if runtime.GOMAXPROCS(0) > 1 {
		runtime.GOMAXPROCS(1)
	}
	n := 4
	if helpers {
		n += 2
	}
	create(n)
	early.Serve()
}

// create makes the runtime create n threads besides that of the caller, and leaves them
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
