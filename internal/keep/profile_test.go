package keep

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The profile that a process runs with reaches the next one, with the reason why
// another one failed; a process that is up forgets that reason.
func TestProfiles(t *testing.T) {
	s := &shelf{}
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
	(*Session)(nil).SaveProfile(one)
	(*Profiles)(nil).Close()
}

// Another file is no memory with profiles, and neither is one of another version.
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
