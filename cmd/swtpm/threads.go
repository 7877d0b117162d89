package main

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/cmd/swtpm/early"
	"github.com/swtpm-go/swtpm/internal/threads"
)

// createThreads makes the Go runtime create all threads that it may need later, so
// that it creates none while clients are served: a limit that is reached later would end
// the TPM of a guest. helpers is true if other goroutines serve a recording or a device.
//
// A goroutine needs a thread while it is in a system call or in C. These are the six threads:
//
//  1. the engine's server, in C while it waits
//  2. the control channel's server, likewise
//  3. a thread of the runtime that watches the others (sysmon)
//  4. a thread of the runtime that creates threads for those that came from C (template thread)
//  5. an idle thread: the runtime gives it the processor that a server leaves when it enters C
//  6. another one, because the fifth may be on its way to sleep at that moment, or read or write a
//     file in the background. With five threads, a limit of threads stopped 3 of 30 TPMs until it
//     was lifted.
//
// More are not necessary as long as no other goroutine makes a system call that takes time, and no
// timer of Go runs: either occupies an idle thread. So the servers' loops wait for signals, libtpms's
// log and deadlines (program.MoveWatches, emul.Options.After), notify systemd and serve the metrics.
// Files that no client waits for are read and written one after the other (background). Helpers share
// two more threads.
//
// trim ends a thread that the runtime creates all the same. One of the servers may call it at any time.
func createThreads(helpers bool) (trim func()) {
	if runtime.GOMAXPROCS(0) > 1 {
		runtime.GOMAXPROCS(1)
	}
	time.Sleep(time.Microsecond) // wakes up the thread in Go's poller, which has nothing to wait for any more
	n := 3
	if helpers {
		n += 2
	}
	create(n)
	most := n + 3
	endSurplus(most)
	early.Serve()
	return func() { endSurplus(most) }
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
	for tries := 0; threads.Count() > most && tries < 100; tries++ {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // the runtime ends the thread of a goroutine that ends locked
			if unix.Gettid() == unix.Getpid() {
				runtime.UnlockOSThread() // the main thread would stay, and do nothing
			}
		}()
		<-done
		pause := unix.NsecToTimespec(50_000) // until the thread has ended; a timer of Go would occupy another one
		_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &pause, nil)
	}
}
