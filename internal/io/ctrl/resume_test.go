package ctrl

import (
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

func newRecord() *handover.Record { return handover.RecordAt(make([]byte, handover.RecordSize)) }

// resume makes b serve a client whose request the previous process has received.
func resume(t *testing.T, b *bench, r *handover.Record, in string, forget func()) net.Conn {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(p[1]), "client")
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if in != "" {
		if _, err := c.Write(harness.Unhex(in)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Receive(p[0], make([]byte, firstRead), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	b.Resume(p[0], conn.Handover{Record: r, Forget: forget})
	return c
}

// TestResume checks that a received request without a reply is answered with an error, in a reply
// with the length of success, and that the next request is understood.
func TestResume(t *testing.T) {
	for _, g := range []struct {
		name, in, rest, want string
	}{
		{"nothing", "", "", ""},
		{"STOP", "0000000e", "", "00000009"},
		{"SET_LOCALITY, padded", "00000005 03000000", "", "00000009"},
		{"half of INIT", "00000002 00", "000000", "00000009"},
		{"a part of a code", "0000", "000e", "00000009"},
		{"GET_TPMESTABLISHED", "00000004", "", "00000009 00000000"},
		{"GET_STATEBLOB", "0000000c 00000001 00000001 00000000", "", "00000009 00000000 00000000 00000000"},
		{"SET_BUFFERSIZE", "00000011 00000000", "", "00000009 00000000 00000000 00000000"},
		{"SET_STATEBLOB, its body to come", "0000000d 00000000 00000001 00000008", "0102030405060708", "00000009"},
		{"HASH_DATA, in its body", "00000007 00000014 0102030405", "060708090a0b0c0d0e0f1011121314", "00000009"},
		{"unknown request", "000000ff", "", "00000009"},
	} {
		t.Run(g.name, func(t *testing.T) {
			b := newBench(t, tpm.V20)
			r := newRecord()
			c := resume(t, b, r, g.in, nil)
			if g.rest != "" {
				if _, err := c.Write(harness.Unhex(g.rest)); err != nil {
					t.Fatal(err)
				}
			}
			got := make([]byte, len(harness.Unhex(g.want)))
			if _, err := io.ReadFull(c, got); err != nil || hex.EncodeToString(got) != hex.EncodeToString(harness.Unhex(g.want)) {
				t.Fatalf("reply %x, %v, want %s", got, err, g.want)
			}
			if _, err := c.Write(harness.Unhex("0000000f")); err != nil { // GET_CONFIG
				t.Fatal(err)
			}
			got = make([]byte, 8)
			if _, err := io.ReadFull(c, got); err != nil || binary.BigEndian.Uint32(got) != 0 {
				t.Errorf("the next reply is %x, %v", got, err)
			}
			b.Close(patience) // the server uses the record until then
			if s := r.Unfinished(); s.Taken != 0 || s.Broken {
				t.Errorf("the record is %+v", s)
			}
		})
	}
}

// TestLeave checks that a server that closes leaves its clients to the next process, except those
// that have disconnected or received a part of a reply.
func TestLeave(t *testing.T) {
	var forgotten atomic.Int32
	forget := func() { forgotten.Add(1) }
	p := newBench(t, tpm.V20)
	opt := p.opt
	opt.Save = func(int) conn.Handover { return conn.Handover{Record: newRecord(), Forget: forget} }
	s, err := New(p.tpm, opt)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Server: s, tpm: p.tpm}
	go s.Run()
	half := newRecord()
	half.Answer(8)
	null, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null[0])
	defer unix.Close(null[1])
	if _, err := half.Send(null[0], []byte("1234")); err != nil {
		t.Fatal(err)
	}
	if n, err := resume(t, b, half, "", forget).Read(make([]byte, 9)); err != io.EOF {
		t.Errorf("a client with half a reply reads %d bytes, %v", n, err)
	}
	gone := resume(t, b, newRecord(), "", forget)
	_ = gone.Close()
	for end := time.Now().Add(patience); forgotten.Load() < 2 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	stays := resume(t, b, newRecord(), "", forget)
	if _, err := stays.Write(harness.Unhex("0000000f")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stays, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	s.Close(patience)
	if forgotten.Load() != 2 {
		t.Errorf("%d clients were forgotten, want 2", forgotten.Load())
	}
}
