package linear

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// sim is a file or a device under a kernel that a test has in hand: what was
// written is in its memory, and on the disk only after a sync, or before, in any
// part and order, as it likes. Writes reach the disk by sectors.
type sim struct {
	isDevice bool
	memory   []byte // what programs read
	disk     []byte // certain to exist after a power cut
	pending  []piece
	calls    []string // those that change something, and reads

	nth    int  // the call that fails, from 1; 0: none
	dies   bool // and all after it
	before func()
}

// piece is a part of one sector that was written, or a new size.
type piece struct {
	off  int64
	b    []byte
	size int64 // without b
}

const sector = 512

var errFault = errors.New("fault")

// call notes a call and fails if it is that one's turn.
func (s *sim) call(format string, args ...any) error {
	s.calls = append(s.calls, fmt.Sprintf(format, args...))
	if s.before != nil {
		s.before()
	}
	if n := len(s.calls); s.nth > 0 && (n == s.nth || s.dies && n > s.nth) {
		return errFault
	}
	return nil
}

func (s *sim) Size() (int64, error) { return int64(len(s.memory)), nil }

func (s *sim) ReadAt(b []byte, off int64) error {
	if err := s.call("read %d at %d", len(b), off); err != nil {
		return err
	}
	if off+int64(len(b)) > int64(len(s.memory)) {
		return errors.New("end of file")
	}
	copy(b, s.memory[off:])
	return nil
}

// WriteAt of which the call fails has written the first half of a large write
// and nothing of a small one.
func (s *sim) WriteAt(b []byte, off int64) error {
	err := s.call("write %d at %d", len(b), off)
	if err != nil {
		if s.dies || len(b) <= headerSize {
			return err
		}
		b = b[:len(b)/2]
	}
	if end := off + int64(len(b)); end > int64(len(s.memory)) {
		if s.isDevice {
			return errors.New("end of device")
		}
		s.memory = append(s.memory, make([]byte, end-int64(len(s.memory)))...)
	}
	copy(s.memory[off:], b)
	for len(b) > 0 {
		n := min(int64(len(b)), sector-off%sector)
		s.pending = append(s.pending, piece{off: off, b: bytes.Clone(b[:n])})
		b, off = b[n:], off+n
	}
	return err
}

func (s *sim) Truncate(size int64) error {
	if err := s.call("truncate to %d", size); err != nil {
		return err
	}
	s.memory = s.memory[:size]
	s.pending = append(s.pending, piece{size: size})
	return nil
}

// Sync that fails has written nothing, and the kernel takes all for written.
func (s *sim) Sync() error {
	err := s.call("sync")
	if err != nil {
		if !s.dies {
			s.pending = nil
		}
		return err
	}
	s.disk = apply(s.disk, s.pending)
	s.pending = nil
	return nil
}

// apply changes b by the pieces and returns it.
func apply(b []byte, pieces []piece) []byte {
	for _, p := range pieces {
		if p.b == nil {
			b = b[:min(p.size, int64(len(b)))]
			continue
		}
		if end := p.off + int64(len(p.b)); end > int64(len(b)) {
			b = append(b, make([]byte, end-int64(len(b)))...)
		}
		copy(b[p.off:], p.b)
	}
	return b
}

// images are what a power cut at this moment may leave: nothing of what is
// pending, all, up to each, only each, all but each, and some sets by chance. A
// file has its old size, or that of what was written. Equal images are one.
func (s *sim) images(rnd *rand.Rand) [][]byte {
	n := len(s.pending)
	sets := [][]piece{nil, s.pending}
	for i := range n {
		sets = append(sets, s.pending[:i], s.pending[i:i+1], slices.Delete(slices.Clone(s.pending), i, i+1))
	}
	for range min(20, n*n) {
		set := slices.DeleteFunc(slices.Clone(s.pending), func(piece) bool { return rnd.IntN(2) == 0 })
		sets = append(sets, set)
	}
	var all [][]byte
	add := func(b []byte) {
		if !slices.ContainsFunc(all, func(other []byte) bool { return bytes.Equal(b, other) }) {
			all = append(all, b)
		}
	}
	for _, set := range sets {
		b := apply(bytes.Clone(s.disk), set)
		add(b)
		if len(b) < len(s.memory) { // the size is written before the content
			add(append(bytes.Clone(b), make([]byte, len(s.memory)-len(b))...))
		}
	}
	return all
}

func (s *sim) device() bool          { return s.isDevice }
func (s *sim) Mode() (uint32, error) { return 0o600, nil }
func (s *sim) SetMode(uint32) error  { return nil }
func (s *sim) Moved() bool           { return false }
func (s *sim) Lock() error           { return nil }
func (s *sim) Unlock() error         { return nil }
func (s *sim) Close() error          { return nil }

// simOn is a sim with b on the disk.
func simOn(b []byte, isDevice bool) *sim {
	return &sim{isDevice: isDevice, memory: bytes.Clone(b), disk: bytes.Clone(b)}
}

// fileOn is a File on s.
func fileOn(s storage) *File {
	return &File{o: nv.Options{Prefix: "tpm2-00.", Warn: func(string, ...any) {}}, path: "sim", s: s, seen: map[int]known{}}
}
