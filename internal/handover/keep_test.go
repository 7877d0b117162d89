package handover

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/exchange"
)

// shelf is a descriptor store.
type shelf struct {
	fds  []FD
	fail bool
}

func (s *shelf) Keep(fd int, name string) error {
	if s.fail {
		return errors.New("no store")
	}
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	s.fds = append(s.fds, FD{fd, name})
	return err
}

func (s *shelf) Drop(name string) {
	s.fds = slices.DeleteFunc(s.fds, func(f FD) bool {
		if f.Name == name {
			_ = unix.Close(f.FD)
		}
		return f.Name == name
	})
}

func (s *shelf) names() string {
	var names []string
	for _, f := range s.fds {
		names = append(names, f.Name)
	}
	return strings.Join(names, " ")
}

// passed are copies for the next process.
func (s *shelf) passed(t *testing.T) []FD {
	t.Helper()
	next := &shelf{}
	for _, f := range s.fds {
		if err := next.Keep(f.FD, f.Name); err != nil {
			t.Fatal(err)
		}
	}
	return next.fds
}

func open(t *testing.T, s *shelf, fds []FD) *Session {
	t.Helper()
	x, why, err := Open(s, fds)
	if why != nil || err != nil {
		t.Fatal(why, err)
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

// A session goes from process to process: state, cells, clients with their records,
// listeners.
func TestSession(t *testing.T) {
	s := &shelf{}
	x := open(t, s, nil)
	if x.Old() || len(x.Kept()) != 0 {
		t.Error("a new session has something")
	}
	x.Cells().Locality = 3
	one, _ := socketpair(t)
	other, client := socketpair(t)
	x.Keep("ctrl", one)
	x.Keep("data", other).Record.Done()
	if err := x.KeepListener("data", one, [2]uint64{7, 8}); err != nil {
		t.Fatal(err)
	}
	if err := x.Put([]byte("st"), []byte("ate")); err != nil {
		t.Fatal(err)
	}
	if got, want := s.names(), "swtpm-state swtpm-ctrl-0 swtpm-data-1 swtpm-listen-data"; got != want {
		t.Errorf("kept are %s, want %s", got, want)
	}

	y := open(t, s, s.passed(t))
	if !y.Old() || y.Cells().Locality != 3 || fmt.Sprintf("%s", y.Kept()) != "[state]" {
		t.Errorf("old %t, locality %d, state %s", y.Old(), y.Cells().Locality, y.Kept())
	}
	if fd, made := y.Listener("data"); fd < 0 || made != [2]uint64{7, 8} {
		t.Errorf("listener %d, %v", fd, made)
	}
	if fd, _ := y.Listener("ctrl"); fd >= 0 {
		t.Error("there is a listener that nobody has kept")
	}
	clients := y.Clients()
	if len(clients) != 2 || clients[0].Kind != "ctrl" || clients[1].Kind != "data" || clients[0].Record.Used() || !clients[1].Record.Used() {
		t.Fatalf("clients %+v", clients)
	}
	if len(y.Clients()) != 0 {
		t.Error("they come twice")
	}
	clients[1].Forget()
	if n, err := unix.Read(client, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the client that was forgotten reads %d, %v", n, err)
	}
	third, _ := socketpair(t)
	if c := y.Keep("datafd", third); c.Record == nil || c.Record.Used() || !strings.HasSuffix(s.names(), "swtpm-datafd-1") {
		t.Errorf("its place is not free: %s", s.names())
	}
}

// What is no memory of ours, or a connection without its record, is not used.
func TestStrangers(t *testing.T) {
	ours, client := socketpair(t)
	fd, err := unix.FcntlInt(uintptr(ours), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := unix.MemfdCreate("other", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	x, why, err := Open(&shelf{}, []FD{{other, MemoryName}, {fd, "swtpm-data-0"}})
	if why == nil || err != nil || x.Old() || len(x.Clients()) != 0 {
		t.Errorf("%v, %v, old %t", why, err, x.Old())
	}
	if n, err := unix.Read(client, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("its client reads %d, %v", n, err)
	}
	for _, name := range []string{"swtpm-data-64", "swtpm-data--1", "swtpm-data-x", "swtpm-data", "swtpm-"} {
		if kind, i, ok := parseName(name); ok {
			t.Errorf("parseName(%q) = %q, %d", name, kind, i)
		}
	}
	if _, _, err := Open(&shelf{fail: true}, nil); err == nil {
		t.Error("no store, and no error")
	}
}

// A memory of another version leaves the store when the new one comes in: the next
// process must not have to choose, and it holds the TPM's secrets.
func TestOtherVersion(t *testing.T) {
	other, err := unix.MemfdCreate("other", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{}
	if err := s.Keep(other, MemoryName); err != nil {
		t.Fatal(err)
	}
	if _, why, err := Open(s, s.passed(t)); why == nil || err != nil {
		t.Fatal(why, err)
	}
	if got := s.names(); got != MemoryName {
		t.Errorf("the store has %s", got)
	}
	if x := open(t, s, s.passed(t)); !x.Old() {
		t.Error("the process after that does not go on")
	}
}

// If nothing can be kept, nothing of before stays open: a client would wait for ever,
// and nobody could listen where the process before did.
func TestNothingCanBeKept(t *testing.T) {
	ours, client := socketpair(t)
	s := &shelf{}
	if err := s.Keep(ours, "swtpm-data-0"); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(ours, "swtpm-listen-ctrl"); err != nil {
		t.Fatal(err)
	}
	fds := s.passed(t)
	s.fail = true
	if _, _, err := Open(s, fds); err == nil {
		t.Fatal("no store, and no error")
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

// Nobody can run what is in the memory, where the kernel knows that seal: there are
// machines that allow no other memory, vm.memfd_noexec=2.
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

// The newest state counts; the one before is there too, until it is replaced, and
// nothing is left of a longer one.
func TestSlots(t *testing.T) {
	m, err := newMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	long := bytes.Repeat([]byte("x"), 5000)
	for i, g := range []struct{ put, want string }{
		{string(long), string(long)}, {"one", "one " + string(long)}, {"two", "two one"}, {"", " two"}, {"three", "three "},
	} {
		if err := m.put([][]byte{[]byte(g.put)}); err != nil {
			t.Fatal(err)
		}
		if got := string(bytes.Join(m.kept(), []byte(" "))); got != g.want {
			t.Errorf("%d: kept %.20q, want %.20q", i, got, g.want)
		}
	}
	if bytes.Contains(m.b, []byte("xxx")) {
		t.Error("the end of the longer state is still there")
	}
	if err := m.put([][]byte{make([]byte, slotSize)}); err == nil {
		t.Error("a state that is too large was put")
	}
	if got := m.kept(); len(got) != 1 || string(got[0]) != "three" {
		t.Errorf("after that: kept %q", got)
	}
}

// The records have room, and lie where no two of them meet.
func TestLayout(t *testing.T) {
	if exchange.Size > recordSize || recordsAt+records*recordSize > slotsAt || recordsAt%8 != 0 || recordSize%8 != 0 {
		t.Errorf("a record has %d bytes", exchange.Size)
	}
}
