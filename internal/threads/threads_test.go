//go:build cgo

package threads

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// childVar makes the test binary drop privileges on all its threads.
const childVar = "THREADS_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVar) == "" {
		os.Exit(m.Run())
	}
	if err := act(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// act drops all privileges while threads are created and end, and checks each thread
// afterwards.
func act() error {
	var stop atomic.Bool
	var churn sync.WaitGroup
	for range 8 {
		churn.Go(func() {
			for !stop.Load() {
				done := make(chan struct{})
				go func() {
					runtime.LockOSThread() // the thread ends with the goroutine
					close(done)
				}()
				<-done
			}
		})
	}
	release := make(chan struct{})
	for range 12 {
		up := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(up)
			<-release
		}()
		<-up
	}
	for range 10 {
		r, err := Loss{Ruleset: -1, Bounding: os.Geteuid() == 0, Capabilities: true}.Apply()
		if err != nil {
			return err
		}
		for i, s := range []Step{r.NoNewPrivs, r.Bounding, r.Capabilities} {
			// As root, the first round empties the bounding set; later rounds cannot.
			if s.Failed > 0 || s.Done < 13 && i != 1 {
				return fmt.Errorf("%+v, want success on 13 threads at least", r)
			}
		}
		if err := confined(); err != nil {
			return err
		}
	}
	stop.Store(true)
	churn.Wait()
	close(release)
	return confined()
}

// confined returns an error if a thread has a capability or may gain one.
func confined() error {
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) < 2 {
		return fmt.Errorf("%d threads, %v", len(tasks), err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || len(b) == 0 {
			continue // the thread has ended
		}
		if strings.Contains(string(b), "State:\tX") || strings.Contains(string(b), "State:\tZ") {
			continue
		}
		for _, line := range []string{"NoNewPrivs:\t1\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n"} {
			if err != nil || !strings.Contains(string(b), line) {
				return fmt.Errorf("%s: %v, no %q in\n%s", task, err, line, b)
			}
		}
		if os.Geteuid() == 0 && !strings.Contains(string(b), "CapBnd:\t0000000000000000\n") {
			return fmt.Errorf("%s: the bounding set is not empty:\n%s", task, b)
		}
	}
	return nil
}

// TestApply checks that no thread is omitted: old, new or about to end.
func TestApply(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), childVar+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
}

// TestFiltered checks that threads without a filter are counted.
func TestFiltered(t *testing.T) {
	yes, no, err := Filtered()
	if err != nil || yes != 0 || no < 2 {
		t.Errorf("Filtered() = %d, %d, %v, want no thread with a filter", yes, no, err)
	}
}

// TestAll checks the error of a step.
func TestAll(t *testing.T) {
	for _, tt := range []struct {
		step  Step
		want  error
		mixed bool
	}{
		{Step{}, nil, false},
		{Step{Done: 3}, nil, false},
		{Step{Failed: 3, Err: unix.EPERM}, unix.EPERM, false},
		{Step{Done: 1, Failed: 2, Err: unix.EPERM}, unix.EPERM, true},
	} {
		err := tt.step.All()
		if !errors.Is(err, tt.want) || errors.Is(err, ErrMixed) != tt.mixed {
			t.Errorf("%+v.All() = %v, want %v, mixed: %v", tt.step, err, tt.want, tt.mixed)
		}
	}
}
