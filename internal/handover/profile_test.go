package handover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProfiles checks that the next process gets the profile of its predecessor, and the reason
// why another profile failed, until it is ready.
func TestProfiles(t *testing.T) {
	s := &fdStore{}
	x := open(t, s, nil)
	p, err := OpenProfiles(s.fds[0].FD)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if last, ok := p.Last(); ok || p.Rejected("") != nil {
		t.Errorf("a new memory has the profile %q", last)
	}
	one := Profile{"/etc/swtpm/vm.toml", "tpm = \"2.0\"\n"}
	x.SaveProfile(one)
	if last, ok := p.Last(); !ok || last != one {
		t.Errorf("the profile is %q, %t", last, ok)
	}
	p.Reject("tpm = 2.0", errors.New("a number"))
	if why := p.Rejected("tpm = 2.0"); why == nil || why.Error() != "a number" {
		t.Errorf("the profile was rejected because of %v", why)
	}
	if why := p.Rejected(one.Text); why != nil {
		t.Errorf("another profile was rejected: %v", why)
	}
	p.Reject("x", errors.New(strings.Repeat("ä", reasonSize)))
	if why := p.Rejected("x"); why == nil || why.Error() != strings.Repeat("ä", reasonSize/2) {
		t.Errorf("a long reason is %v", why)
	}
	if last, _ := p.Last(); last != one {
		t.Errorf("the profile is %q after a rejection", last)
	}
	x.SaveProfile(one)
	if why := p.Rejected("x"); why != nil {
		t.Errorf("the rejection is still there: %v", why)
	}
	x.SaveProfile(Profile{"p", "short"})
	if bytes.Contains(p.area(), []byte("2.0")) {
		t.Error("a longer profile is not wiped")
	}
	x.SaveProfile(Profile{"p", strings.Repeat("#", profileSize)})
	if last, ok := p.Last(); ok {
		t.Errorf("a profile that is too large was saved: %d bytes", len(last.Text))
	}
	(*Handover)(nil).SaveProfile(one)
	(*Profiles)(nil).Close()
}

// TestProfilesElsewhere checks that another file, or a memory of another version, has no profiles.
func TestProfilesElsewhere(t *testing.T) {
	other, err := unix.MemfdCreate("other", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(other)
	if _, err := OpenProfiles(other); err != errVersion {
		t.Errorf("OpenProfiles = %v", err)
	}
	m, err := newMemory()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	m.b[0] ^= 0xff
	if _, err := OpenProfiles(m.fd); err != errVersion {
		t.Errorf("OpenProfiles of another version = %v", err)
	}
}

// TestFirstVersion checks that a memory of the first version of this program, which had no profile
// area, can be read: an upgrade must not lose a TPM.
func TestFirstVersion(t *testing.T) {
	const size = 65536 + 2*(512<<10)
	fd, err := unix.MemfdCreate("swtpm-state", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	put := func(at int, n uint64) { binary.NativeEndian.PutUint64(b[at:], n) }
	put(0, 0x73777470_6d6b7031)
	put(64, 3)      // cells: the locality
	put(128+16, 77) // the device of the second listener's path
	for i, text := range []string{"older", "newer"} {
		slot := 65536 + i*(512<<10)
		put(slot, uint64(7+i))
		put(slot+8, uint64(len(text)))
		copy(b[slot+16:], text)
	}
	if _, err := unix.Write(fd, b); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		t.Fatal(err)
	}
	m, err := oldMemory(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	if got := string(bytes.Join(saved(m.slots()), []byte(" "))); got != "newer older" || m.cells().Locality != 3 || m.socket(1)[0] != 77 {
		t.Errorf("states %q, cells %+v, listener %v", got, *m.cells(), *m.socket(1))
	}
	p := &Profiles{m.b}
	if last, ok := p.Last(); ok || p.Rejected("") != nil {
		t.Errorf("the memory has the profile %q", last)
	}
	*p.length(0) = profileSize // damaged
	if _, ok := p.Last(); ok {
		t.Error("a profile that is longer than its area is read")
	}
}
