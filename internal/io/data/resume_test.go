package data

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

func newRecord() *handover.Record { return handover.RecordAt(make([]byte, handover.RecordSize)) }

var resumeWhole, resumeNext = command(30), command(12)

var resumeTake = func(t *testing.T, r *handover.Record, fd int) {
	t.Helper()
	if _, _, err := r.Receive(fd, make([]byte, tpm.MaxMessage), nil, 0); err != nil {
		t.Fatal(err)
	}
}

// resumeCases are the cases of TestResume.
var resumeCases = []struct {
	name        string
	before      func(t *testing.T, r *handover.Record, fd int, c peer) // in the previous process
	rest        []byte                                                 // sent by the client afterwards
	interrupted []byte                                                 // the command that is answered as lost
}{
	{"nothing", func(*testing.T, *handover.Record, int, peer) {}, nil, nil},
	{"a command that waits", func(t *testing.T, _ *handover.Record, _ int, c peer) { c.Send(t, resumeWhole) }, nil, nil},
	{"a command", func(t *testing.T, r *handover.Record, fd int, c peer) { c.Send(t, resumeWhole); resumeTake(t, r, fd) }, nil, resumeWhole},
	{"a part of a header", func(t *testing.T, r *handover.Record, fd int, c peer) {
		c.Send(t, resumeWhole[:7])
		resumeTake(t, r, fd)
	}, resumeWhole[7:], resumeWhole},
	{"more than the head", func(t *testing.T, r *handover.Record, fd int, c peer) {
		c.Send(t, resumeWhole[:25])
		resumeTake(t, r, fd)
	}, resumeWhole[25:], resumeWhole},
	{"a response that was ready", func(t *testing.T, r *handover.Record, fd int, c peer) {
		c.Send(t, resumeWhole)
		resumeTake(t, r, fd)
		r.Answer(10)
	}, nil, resumeWhole},
}

// TestResume checks the response to a client whose command the previous process has
// received in whole or in part.
func TestResume(t *testing.T) {

	for _, g := range resumeCases {
		t.Run(g.name, func(t *testing.T) {
			b := newBench(t, &fake{}, Options{})
			fd, c := pair(t, unix.SOCK_STREAM)
			r := newRecord()
			g.before(t, r, fd, c)
			b.Resume(fd, conn.Handover{Record: r}, false)
			if g.rest != nil {
				c.Send(t, g.rest)
			}
			switch {
			case g.interrupted != nil:
				want := append([]byte("lost "), g.interrupted...)
				copy(want[5+handover.HeadSize:], make([]byte, len(g.interrupted))) // the record has only the head
				if len(g.rest) > 0 {
					copy(want[5+len(g.interrupted)-len(g.rest):], g.rest)
				}
				got := make([]byte, len(want))
				if _, err := io.ReadFull(c.File, got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("received %x, %v, want %x", got, err, want)
				}
			case g.name == "a command that waits":
				c.receives(t, resumeWhole)
			}
			c.Send(t, resumeNext)
			c.receives(t, resumeNext)
			for _, m := range b.tpm.messages() {
				if g.interrupted != nil && len(m) == 2*len(resumeWhole) {
					t.Error("the command was run again")
				}
			}
			b.Close(patience) // until then the server uses the record
			if s := r.Unfinished(); s.Taken != 0 || s.Broken {
				t.Errorf("record = %+v, want none pending", s)
			}
		})
	}
}

// TestResumeHalfAnswered checks that a client that got a part of a response is
// disconnected, in all processes that have the connection open.
func TestResumeHalfAnswered(t *testing.T) {
	b := newBench(t, &fake{}, Options{})
	fd, c := pair(t, unix.SOCK_STREAM)
	r := newRecord()
	r.Answer(10)
	if _, err := r.Send(fd, []byte("1234")); err != nil {
		t.Fatal(err)
	}
	var forgotten atomic.Int32
	b.Resume(fd, conn.Handover{Record: r, Forget: func() { forgotten.Add(1) }}, true)
	if got, _ := io.ReadAll(c.File); string(got) != "1234" {
		t.Errorf("received %q", got)
	}
	b.Await(t, "the previous process sent only a part")
	if forgotten.Load() != 1 {
		t.Errorf("forgotten %d times", forgotten.Load())
	}
}

// TestLeave checks that a server that closes leaves its clients to the next process and
// reads nothing from them, and that a disconnected client is forgotten.
func TestLeave(t *testing.T) {
	var preserved, forgotten atomic.Int32
	preserve := func(fd int, attached bool) conn.Handover {
		preserved.Add(1)
		return conn.Handover{Record: newRecord(), Forget: func() { forgotten.Add(1) }}
	}
	b := newBench(t, &fake{}, Options{Save: preserve})
	q := b.listen(t)
	leaves, stays := q.dial(t), q.dial(t)
	for _, c := range []peer{leaves, stays} {
		c.Send(t, command(12))
		c.receives(t, command(12))
	}
	_ = leaves.File.Close()
	for b.Clients() > 1 {
		unix.Poll(nil, 1)
	}
	b.Close(patience)
	if preserved.Load() != 2 || forgotten.Load() != 1 {
		t.Errorf("%d preserved, %d forgotten, want 2 and 1", preserved.Load(), forgotten.Load())
	}
}
