package handover

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fdStore is a descriptor store in memory.
type fdStore struct {
	fds  []FD
	fail bool
}

func (s *fdStore) StoreFD(fd int, name string) error {
	if s.fail {
		return errors.New("no store")
	}
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	s.fds = append(s.fds, FD{fd, name})
	return err
}

func (s *fdStore) RemoveFD(name string) {
	s.fds = slices.DeleteFunc(s.fds, func(f FD) bool {
		if f.Name == name {
			_ = unix.Close(f.FD)
		}
		return f.Name == name
	})
}

func (s *fdStore) names() string {
	var names []string
	for _, f := range s.fds {
		names = append(names, f.Name)
	}
	return strings.Join(names, " ")
}

// passed returns copies for the next process.
func (s *fdStore) passed(t *testing.T) []FD {
	t.Helper()
	next := &fdStore{}
	for _, f := range s.fds {
		if err := next.StoreFD(f.FD, f.Name); err != nil {
			t.Fatal(err)
		}
	}
	return next.fds
}

func open(t *testing.T, s *fdStore, fds []FD) *Handover {
	t.Helper()
	x, unusable, err := Open(s, fds)
	if unusable != nil || err != nil {
		t.Fatal(unusable, err)
	}
	return x
}

func socketpair(t *testing.T) (int, int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(p[0]); _ = unix.Close(p[1]) })
	return p[0], p[1]
}

// TestHandover checks that the next process gets the state, the cells, the clients with their
// records, and the listeners.
func TestHandover(t *testing.T) {
	s := &fdStore{}
	x := open(t, s, nil)
	if x.Resumed() || len(x.Saved()) != 0 {
		t.Error("a new handover is not empty")
	}
	x.Cells().Locality = 3
	one, _ := socketpair(t)
	other, client := socketpair(t)
	x.SaveClient("ctrl", one)
	x.SaveClient("data", other).Record.Done()
	if err := x.SaveListener("data", one, SocketID{7, 8}); err != nil {
		t.Fatal(err)
	}
	if err := x.Save([]byte("st"), []byte("ate")); err != nil {
		t.Fatal(err)
	}
	if got, want := s.names(), "swtpm-state swtpm-ctrl-0 swtpm-data-1 swtpm-listen-data"; got != want {
		t.Errorf("the store has %s, want %s", got, want)
	}

	y := open(t, s, s.passed(t))
	if !y.Resumed() || y.Cells().Locality != 3 || fmt.Sprintf("%s", y.Saved()) != "[state]" {
		t.Errorf("resumed %t, locality %d, state %s", y.Resumed(), y.Cells().Locality, y.Saved())
	}
	if fd, id := y.Listener("data"); fd < 0 || id != (SocketID{7, 8}) {
		t.Errorf("listener %d, %v", fd, id)
	}
	if fd, _ := y.Listener("ctrl"); fd >= 0 {
		t.Error("a listener that was not saved")
	}
	clients := y.Clients()
	if len(clients) != 2 || clients[0].Kind != "ctrl" || clients[1].Kind != "data" || clients[0].Record.Used() || !clients[1].Record.Used() {
		t.Fatalf("clients %+v", clients)
	}
	if len(y.Clients()) != 0 {
		t.Error("Clients returned them twice")
	}
	clients[1].Forget()
	if n, err := unix.Read(client, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the forgotten client reads %d, %v", n, err)
	}
	third, _ := socketpair(t)
	if c := y.SaveClient("datafd", third); c.Record == nil || c.Record.Used() || !strings.HasSuffix(s.names(), "swtpm-datafd-1") {
		t.Errorf("the record of the forgotten client is not used again: %s", s.names())
	}
}

// TestUnusable checks that another file than a memory is not used, nor a connection without
// its record.
func TestUnusable(t *testing.T) {
	ours, client := socketpair(t)
	fd, err := unix.FcntlInt(uintptr(ours), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := unix.MemfdCreate("other", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	x, unusable, err := Open(&fdStore{}, []FD{{other, MemoryName}, {fd, "swtpm-data-0"}})
	if unusable == nil || err != nil || x.Resumed() || len(x.Clients()) != 0 {
		t.Errorf("%v, %v, resumed %t", unusable, err, x.Resumed())
	}
	if n, err := unix.Read(client, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("its client reads %d, %v", n, err)
	}
	for _, name := range []string{"swtpm-data-64", "swtpm-data--1", "swtpm-data-x", "swtpm-data", "swtpm-"} {
		if kind, i, ok := parseName(name); ok {
			t.Errorf("parseName(%q) = %q, %d", name, kind, i)
		}
	}
	if _, _, err := Open(&fdStore{fail: true}, nil); err == nil {
		t.Error("Open without a store succeeds")
	}
}

// TestOtherVersion checks that a memory of another version is removed from the store when the
// new one is added: the next process must not get both, and the old one has the TPM's secrets.
func TestOtherVersion(t *testing.T) {
	other, err := unix.MemfdCreate("other", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	s := &fdStore{}
	if err := s.StoreFD(other, MemoryName); err != nil {
		t.Fatal(err)
	}
	if _, unusable, err := Open(s, s.passed(t)); unusable == nil || err != nil {
		t.Fatal(unusable, err)
	}
	if got := s.names(); got != MemoryName {
		t.Errorf("the store has %s", got)
	}
	if x := open(t, s, s.passed(t)); !x.Resumed() {
		t.Error("the process after that does not resume")
	}
}

// TestStoreFails checks that after a failure of the store no socket of the previous process
// stays open: a client would wait for ever, and the address of a listener stay in use.
func TestStoreFails(t *testing.T) {
	ours, client := socketpair(t)
	s := &fdStore{}
	if err := s.StoreFD(ours, "swtpm-data-0"); err != nil {
		t.Fatal(err)
	}
	if err := s.StoreFD(ours, "swtpm-listen-ctrl"); err != nil {
		t.Fatal(err)
	}
	fds := s.passed(t)
	s.fail = true
	if _, _, err := Open(s, fds); err == nil {
		t.Fatal("Open without a store succeeds")
	}
	if len(s.fds) != 0 {
		t.Errorf("the store has %s", s.names())
	}
	for _, f := range fds {
		if _, err := unix.FcntlInt(uintptr(f.FD), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("%s is still open: %v", f.Name, err)
		}
	}
	if n, _, err := unix.Recvfrom(client, make([]byte, 1), unix.MSG_DONTWAIT); n != 0 || err != nil {
		t.Errorf("the client reads %d, %v", n, err)
	}
}

// TestNoExec checks that the memory is sealed against execution where the kernel has that seal:
// some machines allow no other memory, vm.memfd_noexec=2.
func TestNoExec(t *testing.T) {
	fd, err := unix.MemfdCreate("probe", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL {
		t.Skip("Linux before 6.3")
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	m, err := newMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if seals, err := unix.FcntlInt(uintptr(m.fd), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_EXEC == 0 {
		t.Errorf("seals %#x, %v", seals, err)
	}
}

// TestSlots checks that the newest state comes first, that the previous one stays until it
// is replaced, and that the end of a longer state is cleared.
func TestSlots(t *testing.T) {
	m, err := newMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	long := bytes.Repeat([]byte("x"), 5000)
	for i, g := range []struct{ state, want string }{
		{string(long), string(long)}, {"one", "one " + string(long)}, {"two", "two one"}, {"", " two"}, {"three", "three "},
	} {
		if err := save(m.slots(), [][]byte{[]byte(g.state)}); err != nil {
			t.Fatal(err)
		}
		if got := string(bytes.Join(saved(m.slots()), []byte(" "))); got != g.want {
			t.Errorf("%d: saved() = %.20q, want %.20q", i, got, g.want)
		}
	}
	if bytes.Contains(m.b, []byte("xxx")) {
		t.Error("the end of the longer state was not cleared")
	}
	if err := save(m.slots(), [][]byte{make([]byte, slotSize)}); err == nil {
		t.Error("save of a state that is too large succeeds")
	}
	if got := saved(m.slots()); len(got) != 1 || string(got[0]) != "three" {
		t.Errorf("after that: saved() = %q", got)
	}
}

// TestLayout checks that the records do not overlap each other or the slots.
func TestLayout(t *testing.T) {
	if RecordSize > recordStride || recordsAt+records*recordStride > slotsAt || recordsAt%8 != 0 || recordStride%8 != 0 {
		t.Errorf("a record has %d bytes", RecordSize)
	}
}
