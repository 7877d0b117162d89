package libtpms_test

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/handover"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// querying runs TPM.ServeQueries on one connection.
func querying(t *testing.T, x *emul.TPM, r *handover.Record) *serving {
	t.Helper()
	s := newServing(t)
	s.set.Clients[1].SetRecord(r)
	s.set.Fixed = []handover.Fixed{
		{Code: 1, Size: 8, Reply: [8]byte{6: 0x7f, 7: 0xff}},
		{Code: 15, Size: 8, Reply: [8]byte{7: 3}},
	}
	go func() { s.served <- x.ServeQueries(s.set) }()
	return s
}

// gets checks that the request is answered with want.
func (s *serving) gets(t *testing.T, request, want []byte) {
	t.Helper()
	s.send(t, request)
	got := make([]byte, len(want)+1)
	n, err := s.client.Read(got)
	if err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("reply to %x = %x, %v, want %x", request, got[:n], err, want)
	}
}

// recordMemory is on the heap, where it is aligned as a record must be.
var recordMemory = make([]byte, handover.RecordSize)

// TestQueries checks that queries are answered without a return to Go, with and
// without a record of the exchange.
func TestQueries(t *testing.T) {
	for _, record := range []*handover.Record{nil, handover.RecordAt(recordMemory)} {
		x := started(t, newDisk(), tpm.V20)
		s := querying(t, x, record)
		for range 3 {
			s.gets(t, harness.Unhex("00000001"), harness.Unhex("00000000 00007fff"))
			s.gets(t, harness.Unhex("00000004"), harness.Unhex("00000000 00000000"))
			s.gets(t, harness.Unhex("00000005 03"), harness.Unhex("00000000"))
			s.gets(t, harness.Unhex("00000005 00 000000"), harness.Unhex("00000000"))
		}
		s.send(t, harness.Unhex("00000009")) // CANCEL_TPM_CMD
		want := handover.EventReady          // the request stays in the socket
		if record == nil {
			want = handover.EventMessage
		}
		if e := s.returns(t); e.Kind != want || s.set.Tick != 12 || s.set.Clients[1].Last != 12 {
			t.Errorf("ServeQueries() = %+v with tick %d, want 12 answers", e, s.set.Tick)
		}
		if record != nil && (!record.Used() || record.Unfinished().Taken != 0 || record.Unfinished().Broken) {
			t.Errorf("record: used %v, %+v, want an answered exchange", record.Used(), record.Unfinished())
		}
		_ = x.Close()
	}
}

// TestQueriesForGo checks that Go gets any other request, whole.
func TestQueriesForGo(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	for _, in := range []string{"00", "00000002 00000000", "00000001 00", "00000005", "00000005 04", "00000005 00 00",
		"00000005 00 000000 00", "00000009", "00000010", "00000013 00000000", "ffffffff"} {
		s := querying(t, x, nil)
		s.send(t, harness.Unhex(in))
		passed(t, s, in)
		s = querying(t, x, handover.RecordAt(make([]byte, handover.RecordSize)))
		s.send(t, harness.Unhex(in))
		left(t, s, in)
	}
	if err := x.Stop(); err != nil {
		t.Fatal(err)
	}
	s := querying(t, x, nil)
	s.gets(t, harness.Unhex("0000000f"), harness.Unhex("00000000 00000003"))
	s.send(t, harness.Unhex("00000004"))
	passed(t, s, "00000004")
	_ = x.Close()

	x = newTPM(t, newDisk(), emul.Options{Version: tpm.V20, GoPath: true})
	powerOn(t, x)
	s = querying(t, x, nil)
	s.send(t, harness.Unhex("00000001"))
	left(t, s, "00000001")
}

// TestQueriesDescriptor checks that Go gets the first descriptor of a request, and that all
// others are closed, also the descriptors of a query.
func TestQueriesDescriptor(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	defer x.Close()
	s := querying(t, x, nil)
	before := descriptors(t)
	dev, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	rights := unix.UnixRights(int(dev.Fd()), int(dev.Fd()))
	for _, in := range []string{"00000001", "00000010"} {
		if err := unix.Sendmsg(int(s.client.Fd()), harness.Unhex(in), rights, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 8)
	if _, err := s.client.Read(got); err != nil {
		t.Fatal(err)
	}
	e := s.returns(t)
	var st, null unix.Stat_t
	if err := errors.Join(unix.Fstat(e.FD, &st), unix.Stat(os.DevNull, &null)); err != nil || st.Rdev != null.Rdev {
		t.Fatalf("descriptor %d: %v, want %s", e.FD, err, os.DevNull)
	}
	_ = unix.Close(e.FD)
	if after := descriptors(t); after > before+1 { // fewer if the garbage collector has closed some of another test
		t.Errorf("%d descriptors, want %d", after, before+1)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// passed checks that ServeQueries returns the request in.
func passed(t *testing.T, s *serving, in string) {
	t.Helper()
	e := s.returns(t)
	if e.Kind != handover.EventMessage || e.At != 1 || e.FD != -1 || !bytes.Equal(s.set.Buf[:e.N], harness.Unhex(in)) {
		t.Errorf("request %s: ServeQueries() = %+v, %x; want all of it", in, e, s.set.Buf[:e.N])
	}
}

// left checks that ServeQueries returns, and the request in can be received.
func left(t *testing.T, s *serving, in string) {
	t.Helper()
	e := s.returns(t)
	got := make([]byte, 100)
	n, err := unix.Read(int(s.set.Polls[1].Fd), got)
	if e.Kind != handover.EventReady || s.set.Clients[1].Plain != 0 || err != nil || !bytes.Equal(got[:n], harness.Unhex(in)) {
		t.Errorf("request %s: ServeQueries() = %+v, plain %d, %x left, %v; want all of it", in, e, s.set.Clients[1].Plain, got[:n], err)
	}
}

// TestQueriesUnread checks that a reply that does not fit into the socket goes to Go.
func TestQueriesUnread(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	s := newServing(t)
	s.set.Fixed = []handover.Fixed{{Code: 1, Size: 8}}
	fd := int(s.set.Polls[1].Fd)
	for { // the client does not read
		if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
			break
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
	}
	go func() { s.served <- x.ServeQueries(s.set) }()
	s.send(t, harness.Unhex("00000001"))
	if e := s.returns(t); e.Kind != handover.EventRest || e.At != 1 || len(e.Rest) == 0 {
		t.Errorf("ServeQueries() = %+v, want the rest of the reply", e)
	}
}
