package handover

import (
	"bytes"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (ours, client int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(p[0]); _ = unix.Close(p[1]) })
	return p[0], p[1]
}

func write(t *testing.T, fd int, b []byte) {
	t.Helper()
	if n, err := unix.Write(fd, b); n != len(b) || err != nil {
		t.Fatal(n, err)
	}
}

// TestUnfinished checks what the next process learns from the record after each step.
func TestUnfinished(t *testing.T) {
	ours, client := pair(t)
	r := RecordAt(make([]byte, RecordSize))
	request := []byte("a request that is longer than the head")
	buf := make([]byte, 100)
	want := func(step string, taken int, broken bool) {
		t.Helper()
		s := r.Unfinished()
		if s.Taken != taken || s.Broken != broken || !bytes.Equal(s.Head, request[:min(taken, HeadSize)]) {
			t.Fatalf("%s: Unfinished() = %d taken, head %q, broken %t; want %d, %t", step, s.Taken, s.Head, s.Broken, taken, broken)
		}
	}
	want("a new client", 0, false)
	if _, _, err := r.Receive(ours, buf, nil, 0); err != unix.EAGAIN {
		t.Fatalf("nothing to read: %v", err)
	}
	want("a wake-up for nothing", 0, false)

	total := 0
	for _, part := range []int{3, 4, 25, 6} { // across the end of the head
		write(t, client, request[total:total+part])
		n, _, err := r.Receive(ours, buf[total:], nil, 0)
		if n != part || err != nil {
			t.Fatal(n, err)
		}
		total += n
		want(fmt.Sprint(total, " bytes"), total, false)
	}
	if !bytes.Equal(buf[:total], request) {
		t.Errorf("received %q", buf[:total])
	}

	r.Answer(10)
	want("a reply that is ready", total, false)
	if r.Used() {
		t.Error("used before the reply is out")
	}
	for i, part := range []int{4, 6} {
		if n, err := r.Send(ours, make([]byte, part)); n != part || err != nil {
			t.Fatal(n, err)
		}
		want("a part of the reply", 0, i == 0)
	}
	r.Done()
	want("answered", 0, false)
	if !r.Used() {
		t.Error("not used")
	}

	write(t, client, request[:5])
	if n, _, err := r.Receive(ours, buf, nil, 0); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	want("the next request", 5, false)
	r.reset()
	want("another client", 0, false)
}

// TestDescriptors checks that descriptors are received with and without a record.
func TestDescriptors(t *testing.T) {
	for _, r := range []*Record{nil, RecordAt(make([]byte, RecordSize))} {
		ours, client := pair(t)
		if err := unix.Sendmsg(client, []byte("x"), unix.UnixRights(0, 1), nil, 0); err != nil {
			t.Fatal(err)
		}
		oob := make([]byte, unix.CmsgSpace(4))
		n, oobn, err := r.Receive(ours, make([]byte, 9), oob, unix.MSG_CMSG_CLOEXEC)
		if n != 1 || err != nil {
			t.Fatal(n, err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(msgs) != 1 {
			t.Fatal(msgs, err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) == 0 {
			t.Fatal(fds, err)
		}
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}
}

// TestEnd checks a client that has disconnected, with and without a record.
func TestEnd(t *testing.T) {
	for _, r := range []*Record{nil, RecordAt(make([]byte, RecordSize))} {
		ours, client := pair(t)
		_ = unix.Shutdown(client, unix.SHUT_RDWR)
		if n, _, err := r.Receive(ours, make([]byte, 9), nil, 0); n != 0 || err != nil {
			t.Errorf("Receive() = %d, %v at the end, want 0 and nothing", n, err)
		}
		r.Answer(1)
		if _, err := r.Send(ours, []byte("x")); err != unix.EPIPE {
			t.Errorf("Send() = %v, want %v", err, unix.EPIPE)
		}
	}
}
