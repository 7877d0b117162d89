package conn

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWatch checks that the loop waits for the descriptors and deadlines of others.
func TestWatch(t *testing.T) {
	s, err := New(Options{Buffer: 64})
	if err != nil {
		t.Fatal(err)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	got := make(chan int, 10)
	s.Watch(p[0], func() bool {
		n, _ := unix.Read(p[0], make([]byte, 10))
		got <- n
		return n > 0
	})
	go s.Run()
	for n := 1; n < 4; n++ {
		if _, err := unix.Write(p[1], make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if read := <-got; read != n {
			t.Errorf("read %d bytes, want %d", read, n)
		}
	}
	unix.Close(p[1])
	if read := <-got; read != 0 {
		t.Errorf("read %d bytes at the end", read)
	}
	order := make(chan string, 3)
	s.After(time.Hour, func() { order <- "never" })
	s.After(0, func() {
		order <- "soon"
		s.After(0, func() {
			order <- "from a timer"
			s.After(30*time.Millisecond, func() { order <- "later" })
		})
	})
	for _, want := range []string{"soon", "from a timer", "later"} {
		if f := <-order; f != want {
			t.Errorf("timer %q, want %q", f, want)
		}
	}
	if len(got) != 0 {
		t.Error("the descriptor is waited for after its end")
	}
	s.Close(time.Minute)
	if s.Watch(p[0], func() bool { return false }) || s.After(0, func() {}) {
		t.Error("a loop that has ended promises to wait")
	}
}
