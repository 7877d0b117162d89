package ctrl

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// patience is how long something may take that must happen.
const patience = time.Minute

// fake is a TPM that notes what it is asked.
type fake struct {
	version tpm.Version

	mu    sync.Mutex
	on    bool
	calls []string
	fail  error  // what every call returns
	blob  []byte // what State returns
	info  string // what Info returns
	hash  int    // bytes that came by HashData
}

func (f *fake) call(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	return f.fail
}

// took returns the calls since the last time.
func (f *fake) took() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.calls, " ")
	f.calls = nil
	return s
}

func (f *fake) set(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.on = on
}

func (f *fake) Version() tpm.Version { return f.version }

func (f *fake) On() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.on
}

func (f *fake) Init(del bool) error {
	err := f.call("Init(%v)", del)
	f.set(err == nil)
	return err
}

func (f *fake) Stop() error {
	f.set(false)
	return f.call("Stop")
}

func (f *fake) SetLocality(l tpm.Locality) error {
	if l > tpm.MaxLocality {
		return tpm.BadLocality
	}
	return f.call("SetLocality(%d)", l)
}

func (f *fake) ResetEstablished(l tpm.Locality) error {
	if l > tpm.MaxLocality {
		return tpm.BadLocality
	}
	return f.call("ResetEstablished(%d)", l)
}

func (f *fake) Established() (bool, error) { return true, f.call("Established") }
func (f *fake) HashStart() error           { return f.call("HashStart") }
func (f *fake) HashEnd() error             { return f.call("HashEnd") }
func (f *fake) EndWait()                   {}
func (f *fake) Cancel() error              { return f.call("Cancel") }
func (f *fake) StoreVolatile() error       { return f.call("StoreVolatile") }
func (f *fake) PrepareSetState() error     { return f.call("Prepare") }
func (f *fake) ReleaseStorage()            { _ = f.call("ReleaseStorage") }

func (f *fake) HashData(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hash += len(b)
	return f.fail
}

func (f *fake) LockStorage(n uint32) error { return f.call("LockStorage(%d)", n) }

func (f *fake) State(b tpm.Blob, plain bool) ([]byte, bool, error) {
	err := f.call("State(%d,%v)", uint32(b), plain)
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
		return f.call("SetState(%d,%v,%d bytes)", uint32(b), encrypted, len(blob))
	}
	return f.call("SetState(%d,%v,%x)", uint32(b), encrypted, blob)
}

func (f *fake) Keys() (file, migration bool) { return false, true }

func (f *fake) BufferSize(want uint32) (size, low, high uint32, err error) {
	if want > 0 && f.On() {
		return 0, 0, 0, tpm.BadOrdinal
	}
	return 0xabc, 0xa, 0x1000, f.call("BufferSize(%d)", want)
}

func (f *fake) Info(flags uint64) (string, error) { return f.info, f.call("Info(%x)", flags) }

// bench is a server with a fake TPM.
type bench struct {
	*Server
	tpm    *fake
	engine chan func() // what the engine is to do

	mu     sync.Mutex
	events []string // what the options were called with
	busy   bool     // the data channel
	taken  []int    // descriptors that the data channel took
}

// hold keeps the engine busy until free is called.
func (b *bench) hold() (free func()) {
	held := make(chan bool)
	b.engine <- func() { <-held }
	return func() { close(held) }
}

func (b *bench) event(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, s)
}

// happened waits for an event.
func (b *bench) happened(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		b.mu.Lock()
		s := strings.Join(b.events, " ")
		b.mu.Unlock()
		if strings.Contains(s, want) {
			return
		}
	}
	t.Errorf("events do not have %q", want)
}

func newBench(t *testing.T, v tpm.Version) *bench {
	t.Helper()
	b := &bench{tpm: &fake{version: v, blob: unhex("b10b b10b b10b"), info: "{}"}, engine: make(chan func(), 100)}
	var err error
	b.Server, err = New(b.tpm, Options{
		MaxClients: 4,
		Engine:     func(f func()) bool { b.engine <- f; return true },
		DataBusy:   func() bool { return b.busy },
		DataFD: func(fd int) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			if fd, err := unix.Dup(fd); err == nil { // what is left open is a leak
				b.taken = append(b.taken, fd)
			}
			return unix.Close(fd)
		},
		Note:     func(format string, args ...any) { b.event(fmt.Sprintf(format, args...)) },
		Error:    func(format string, args ...any) { b.event(fmt.Sprintf(format, args...)) },
		Lost:     func() { b.event("lost") },
		Shutdown: func() { b.event("shutdown") },
		Fail:     func(err error) { b.event("fail: " + err.Error()) },
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

// peer is the other end of a connection.
type peer struct {
	fd int
	f  *os.File
}

// connect attaches a new client over a socket pair of the given type.
func (b *bench) connect(t *testing.T, typ int) *peer {
	t.Helper()
	s, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Attach(s[0]); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(s[1], true); err != nil {
		t.Fatal(err)
	}
	c := &peer{s[1], os.NewFile(uintptr(s[1]), "client")}
	t.Cleanup(func() { _ = c.f.Close() })
	_ = c.f.SetDeadline(time.Now().Add(patience))
	return c
}

func (c *peer) send(t *testing.T, b []byte) {
	t.Helper()
	if len(b) == 0 {
		return
	}
	if _, err := c.f.Write(b); err != nil {
		t.Fatal(err)
	}
}

// ask sends the pieces of in, which slashes separate, so that each is read by
// itself, and returns the reply in hex; "closed" if there is none. want is how
// long it should be.
func (c *peer) ask(t *testing.T, in string, want int) string {
	t.Helper()
	for n, piece := range strings.Split(in, "/") {
		if n > 0 {
			c.emptied(t)
		}
		c.send(t, unhex(piece))
	}
	b := make([]byte, want)
	n, err := io.ReadFull(c.f, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) {
		return hex.EncodeToString(b[:n]) + "closed"
	}
	if err != nil {
		t.Fatalf("%s: reply: %v", in, err)
	}
	return hex.EncodeToString(b)
}

// emptied waits until the server has read everything.
func (c *peer) emptied(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if n, err := unix.IoctlGetInt(c.fd, unix.TIOCOUTQ); err != nil || n == 0 {
			return
		}
	}
	t.Fatal("the server does not read")
}

// unhex reads hex with blanks; "00*16" is 16 bytes.
func unhex(s string) []byte {
	var b []byte
	for word := range strings.FieldsSeq(s) {
		word, count, repeated := strings.Cut(word, "*")
		part, err := hex.DecodeString(word)
		if err != nil {
			panic(err)
		}
		if repeated {
			var n int
			if _, err := fmt.Sscan(count, &n); err != nil {
				panic(err)
			}
			part = bytes.Repeat(part, n)
		}
		b = append(b, part...)
	}
	return b
}
