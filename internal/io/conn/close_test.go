package conn_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/test/harness/conntest"
)

// TestClose checks that Close waits for the message that runs and for no other client.
func TestClose(t *testing.T) {
	b := newBench(t, conn.Options{MaxClients: 4})
	q := b.listen(t)
	idle, half, runs := q.Dial(t), q.Dial(t), q.Dial(t)
	use(t, idle)
	half.Send(t, []byte{msgHalf})
	half.Drained(t)
	runs.Send(t, []byte{msgHold})
	answer := <-b.held
	b.Close(0) // returns although a message runs
	idle.Closed(t)
	half.Closed(t)
	if b.Clients() != 1 {
		t.Errorf("%d clients, want the one whose message runs", b.Clients())
	}
	b.Post(answer)
	if got, closed := runs.Receive(t, 1); closed || got[0] != msgHold {
		t.Errorf("received %q, closed %v", got, closed)
	}
	runs.Closed(t)
	b.Close(conntest.EventTimeout)
	before := conntest.Descriptors(t)
	fd, late := conntest.Pair(t, unix.SOCK_STREAM)
	if err := b.Attach(fd, false); err != nil {
		t.Errorf("Attach after Close = %v", err)
	}
	late.Closed(t)
	conntest.AwaitDescriptors(t, before+1)
	await(t, "LastLeft", &b.lost, 0)
}

// TestHandover checks that clients that end are forgotten, and that those which a closing
// server leaves to the next process are not.
func TestHandover(t *testing.T) {
	var b *bench
	b = newBench(t, conn.Options{Save: func(fd int, attached bool) conn.Handover { return b.save(fd, attached) }})
	q := b.listen(t)
	ends, stays := q.Dial(t), q.Dial(t)
	use(t, ends)
	use(t, stays)
	_ = ends.File.Close()
	await(t, "Forget", &b.forgotten, 1)
	b.Close(conntest.EventTimeout)
	stays.Closed(t)
	await(t, "Save", &b.saved, 2)
	await(t, "Forget", &b.forgotten, 1)

	b = newBench(t, conn.Options{})
	fd, resumed := conntest.Pair(t, unix.SOCK_STREAM)
	b.Resume(fd, b.save(fd, true), true)
	use(t, resumed)
	if !b.Busy() {
		t.Error("Busy() = false with an attached client of the previous process")
	}
}

// TestCloseBeforeDeadline checks that a server which closes does not end the deadlines of saved clients: the next
// process waits for the rest of the message.
func TestCloseBeforeDeadline(t *testing.T) {
	var b *bench
	b = newBench(t, conn.Options{Save: func(fd int, attached bool) conn.Handover { return b.save(fd, attached) }})
	q := b.listen(t)
	half := q.Dial(t)
	half.Send(t, []byte{msgHour})
	half.Drained(t)
	b.Close(0) // the loop looks at all clients once more
	use(t, half)
	half.Closed(t)
	await(t, "Expired", &b.expired, 0)
}
