package ctrl

import (
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/harness/conntest"
)

const patience = conntest.EventTimeout

// fake is a TPM that records its calls.
type fake struct {
	conntest.TPM
	version tpm.Version
	blob    []byte // the result of State
	info    string // the result of Info

	mu   sync.Mutex
	hash int // bytes that HashData got
}

func (f *fake) Version() tpm.Version { return f.version }

func (f *fake) ResetEstablished(l tpm.Locality) error {
	if l > tpm.MaxLocality {
		return tpm.BadLocality
	}
	return f.Call("ResetEstablished(%d)", l)
}

func (f *fake) PrepareSetState() error { return f.Call("Prepare") }

func (f *fake) HashData(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hash += len(b)
	return f.Result()
}

func (f *fake) State(b tpm.Blob, plain bool) ([]byte, bool, error) {
	err := f.Call("State(%d,%v)", uint32(b), plain)
	switch {
	case err != nil:
		return nil, false, err
	case b == tpm.Savestate:
		return nil, false, tpm.Retry
	case b.Name() == "":
		return nil, false, tpm.Fail
	}
	return slices.Clone(f.blob), !plain, nil
}

func (f *fake) SetState(b tpm.Blob, encrypted bool, blob []byte) error {
	if len(blob) > 16 {
		return f.Call("SetState(%d,%v,%d bytes)", uint32(b), encrypted, len(blob))
	}
	return f.Call("SetState(%d,%v,%x)", uint32(b), encrypted, blob)
}

func (f *fake) Keys() (file, migration bool) { return false, true }

func (f *fake) BufferSize(want uint32) (size, low, high uint32, err error) {
	if want > 0 && f.On() {
		return 0, 0, 0, tpm.BadOrdinal
	}
	return 0xabc, 0xa, 0x1000, f.Call("BufferSize(%d)", want)
}

func (f *fake) Info(flags uint64) (string, error) { return f.info, f.Call("Info(%x)", flags) }

// bench is a server with a fake TPM.
type bench struct {
	*Server
	*conntest.Log
	tpm    *fake
	engine chan func() // calls for the thread of the engine
	busy   bool        // the data channel has a client

	mu    sync.Mutex
	taken []int // descriptors that the data channel took
}

// hold keeps the engine busy until free is called.
func (b *bench) hold() (free func()) {
	held := make(chan bool)
	b.engine <- func() { <-held }
	return func() { close(held) }
}

// newBench returns a server that waits for a client of a busy test.
func newBench(t *testing.T, v tpm.Version) *bench {
	t.Helper()
	return newBenchThatWaits(t, v, waits{patience, patience, patience})
}

// newStrictBench returns a server that waits as long as usual, for tests in which the rest of a request does not
// come.
func newStrictBench(t *testing.T, v tpm.Version) *bench {
	t.Helper()
	return newBenchThatWaits(t, v, usual)
}

func newBenchThatWaits(t *testing.T, v tpm.Version, w waits) *bench {
	t.Helper()
	b := &bench{Log: &conntest.Log{}, tpm: &fake{version: v, blob: harness.Unhex("b10b b10b b10b"), info: "{}"}, engine: make(chan func(), 100)}
	var err error
	b.Server, err = New(b.tpm, Options{
		MaxClients: 4,
		Terminate:  true,
		waits:      w,
		Engine:     func(f func()) bool { b.engine <- f; return true },
		DataBusy:   func() bool { return b.busy },
		DataFD: func(fd int) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if fd, err := unix.Dup(fd); err == nil { // a descriptor that stays open is a leak
				b.taken = append(b.taken, fd)
			}
			return unix.Close(fd)
		},
		Log: b.Log,
		End: b.End,
	})
	if err != nil {
		t.Fatal(err)
	}
	go b.Run()
	go func() {
		for f := range b.engine {
			f()
		}
	}()
	t.Cleanup(func() {
		b.Close(patience)
		close(b.engine)
		for _, fd := range b.taken {
			_ = unix.Close(fd)
		}
	})
	return b
}

// peer is the client's end of a connection.
type peer struct{ *conntest.Peer }

// connect attaches a new client over a socket pair of the given type.
func (b *bench) connect(t *testing.T, typ int) peer {
	t.Helper()
	fd, p := conntest.Pair(t, typ)
	if err := b.Attach(fd); err != nil {
		t.Fatal(err)
	}
	return peer{p}
}

// listen returns a queue of clients of the server.
func (b *bench) listen(t *testing.T) *conntest.Queue {
	t.Helper()
	q := conntest.NewQueue(t)
	b.Listen(q)
	t.Cleanup(func() { b.Close(patience) })
	return q
}

// ask sends the pieces of in, which slashes separate, so that each is read by
// itself, and returns the reply in hex; "closed" without one. want is the expected
// length of the reply.
func (p peer) ask(t *testing.T, in string, want int) string {
	t.Helper()
	for n, piece := range strings.Split(in, "/") {
		if n > 0 {
			p.Drained(t)
		}
		p.Send(t, harness.Unhex(piece))
	}
	b, closed := p.Receive(t, want)
	if closed {
		return hex.EncodeToString(b) + "closed"
	}
	return hex.EncodeToString(b)
}

// dial returns a new client of q.
func dial(t *testing.T, q *conntest.Queue) peer {
	t.Helper()
	return peer{q.Dial(t)}
}
