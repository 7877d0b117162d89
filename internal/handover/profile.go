package handover

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"sync/atomic"
	"unicode/utf8"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The profile area of the memory has the profile that the service runs with, for a next
// process whose own profile is invalid:
//
//	off len field
//	  0   4 length    of path, NUL and text in bytes; 0 while they are not complete
//	  4   4 reason    length of the reason in bytes
//	  8  32 rejected  SHA-256 of the text of the profile that failed; zero for none
//	 40 512 reason    of the failure
//	552     path, NUL, text
//
// An older version, which does not know the area, leaves it zero.
const (
	profileAt   = recordsAt + records*recordStride
	profileSize = slotsAt - profileAt
	rejectedAt  = 8
	reasonAt    = rejectedAt + sha256.Size
	reasonSize  = 512
	profileText = reasonAt + reasonSize
)

// Profile is the text of a profile, and the path of its file.
type Profile struct{ Path, Text string }

// Profiles is the profile area of the handover memory.
type Profiles struct{ b []byte }

// OpenProfiles maps the area in the memory fd, which the caller closes. It fails if fd is not
// a memory of this layout.
func OpenProfiles(fd int) (*Profiles, error) {
	if err := checkMemory(fd); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(fd, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	if binary.NativeEndian.Uint64(b) != magic {
		_ = unix.Munmap(b)
		return nil, errVersion
	}
	return &Profiles{b}, nil
}

// Close unmaps the area. It may be called on nil.
func (p *Profiles) Close() {
	if p != nil {
		_ = unix.Munmap(p.b)
	}
}

func (p *Profiles) area() []byte { return p.b[profileAt:][:profileSize] }

func (p *Profiles) length(at int) *uint32 {
	return (*uint32)(unsafe.Pointer(&p.area()[at]))
}

// Last returns the profile that the previous process ran with; ok is false if none
// was saved.
func (p *Profiles) Last() (last Profile, ok bool) {
	n := int(atomic.LoadUint32(p.length(0)))
	if n == 0 || n > profileSize-profileText {
		return Profile{}, false
	}
	path, text, ok := bytes.Cut(p.area()[profileText:][:n], []byte{0})
	return Profile{string(path), string(text)}, ok
}

// Reject records for Rejected that a start with the profile text failed because of cause.
func (p *Profiles) Reject(text string, cause error) {
	a := p.area()
	reason := strings.ToValidUTF8(cause.Error(), "?")
	for len(reason) > reasonSize {
		_, n := utf8.DecodeLastRuneInString(reason)
		reason = reason[:len(reason)-n]
	}
	copy(a[reasonAt:], reason)
	atomic.StoreUint32(p.length(4), uint32(len(reason)))
	sum := sha256.Sum256([]byte(text))
	copy(a[rejectedAt:], sum[:])
}

// Rejected returns the reason why the last start with the profile text failed; nil if the text
// was not tried.
func (p *Profiles) Rejected(text string) error {
	a := p.area()
	sum := sha256.Sum256([]byte(text))
	if !bytes.Equal(a[rejectedAt:][:sha256.Size], sum[:]) {
		return nil
	}
	n := min(atomic.LoadUint32(p.length(4)), reasonSize)
	return errors.New(string(a[reasonAt:][:n]))
}

// SaveProfile saves the profile that the service runs with, unless it is too large. It clears
// the rejection, so the next process tries its profile again.
func (h *Handover) SaveProfile(profile Profile) {
	if h == nil {
		return
	}
	p := &Profiles{h.mem.b}
	a := p.area()
	clear(a[rejectedAt:][:sha256.Size])
	if last, ok := p.Last(); ok && last == profile {
		return
	}
	atomic.StoreUint32(p.length(0), 0)
	all := profile.Path + "\x00" + profile.Text
	clear(a[profileText:])
	if len(all) > profileSize-profileText || strings.Contains(profile.Path, "\x00") {
		return
	}
	copy(a[profileText:], all)
	atomic.StoreUint32(p.length(0), uint32(len(all)))
}
