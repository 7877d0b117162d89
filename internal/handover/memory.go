package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/io/exchange"
)

// The memory that outlives the process, a memfd:
//
//	  off  len field
//	    0    8 magic      says the layout, too
//	   64   20 cells      emul.Cells
//	  128   32 sockets    of each listener that we made: device and inode of its path, u64
//	 4096   64 records    exchange.Record, one for each client
//	20480      profile    see profile.go
//	65536    2 slots      a state each, slotSize bytes
//
// A slot:
//
//	off len field
//	  0   8 generation  0 while it is not whole; the larger one is the newer
//	  8   8 length      of the state in bytes
//	 16     state
//
// Integers are those of the machine; no other one reads them. emul/libtpms writes
// slots, too: put_slot.
const (
	magic      = uint64(0x73777470_6d6b7031) // "swtpmkp1"
	cellsAt    = 64
	socketsAt  = 128
	recordsAt  = 4096
	recordSize = 256
	records    = 64
	slotsAt    = 65536
	slots      = 2
	slotSize   = 512 << 10
	slotHeader = 16
	memorySize = slotsAt + slots*slotSize
)

// memory is mapped as long as the process lives. A page that nobody wrote to takes
// no room.
type memory struct {
	fd int
	b  []byte
}

// newMemory makes an empty one. Nobody can change its size, as access to what was
// cut off would end the process, and nobody can run it.
func newMemory() (*memory, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("swtpm-state", flags|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // Linux before 6.3; newer ones may allow no other, vm.memfd_noexec=2
		fd, err = unix.MemfdCreate("swtpm-state", flags)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	err = unix.Ftruncate(fd, memorySize)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("memfd: %w", err)
	}
	m, err := mapMemory(fd)
	if err == nil {
		binary.NativeEndian.PutUint64(m.b, magic)
	}
	return m, err
}

// oldMemory maps the one that a process has left, and fails if it is none that we
// know. It takes over fd.
func oldMemory(fd int) (*memory, error) {
	if err := checkMemory(fd); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	m, err := mapMemory(fd)
	if err == nil && binary.NativeEndian.Uint64(m.b) != magic {
		m.close()
		return nil, errVersion
	}
	return m, err
}

// errVersion means that a memory has another layout.
var errVersion = errors.New("it is not of this version")

// checkMemory fails unless fd has the size of a memory of ours, and keeps it.
func checkMemory(fd int) error {
	var st unix.Stat_t
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 || st.Size != memorySize {
		return errVersion
	}
	return nil
}

func mapMemory(fd int) (*memory, error) {
	b, err := unix.Mmap(fd, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("map a memfd: %w", err)
	}
	return &memory{fd: fd, b: b}, nil
}

func (m *memory) close() {
	_ = unix.Munmap(m.b)
	_ = unix.Close(m.fd)
}

func (m *memory) cells() *emul.Cells { return (*emul.Cells)(unsafe.Pointer(&m.b[cellsAt])) }

func (m *memory) record(i int) *exchange.Record {
	return exchange.At(m.b[recordsAt+i*recordSize:][:recordSize])
}

// socket is what the path of a listener named when it was made.
func (m *memory) socket(i int) *[2]uint64 {
	return (*[2]uint64)(unsafe.Pointer(&m.b[socketsAt+16*i]))
}

func (m *memory) slot(i int) []byte { return m.b[slotsAt+i*slotSize:][:slotSize] }

// generation is that of a slot, written and read in one step.
func generation(slot []byte) *uint64 { return (*uint64)(unsafe.Pointer(unsafe.SliceData(slot))) }

// newest returns the numbers of the slots, the newer one first.
func (m *memory) newest() (newer, older int) {
	if atomic.LoadUint64(generation(m.slot(1))) > atomic.LoadUint64(generation(m.slot(0))) {
		return 1, 0
	}
	return 0, 1
}

// put writes the older slot, and wipes what is left of its content.
func (m *memory) put(parts [][]byte) error {
	newer, older := m.newest()
	s := m.slot(older)
	was := int(min(binary.NativeEndian.Uint64(s[8:]), slotSize-slotHeader))
	atomic.StoreUint64(generation(s), 0)
	n := 0
	for _, p := range parts {
		if n+len(p) > slotSize-slotHeader {
			return fmt.Errorf("it has more than %d bytes", slotSize-slotHeader)
		}
		n += copy(s[slotHeader+n:], p)
	}
	if n < was {
		clear(s[slotHeader+n : slotHeader+was])
	}
	binary.NativeEndian.PutUint64(s[8:], uint64(n))
	atomic.StoreUint64(generation(s), atomic.LoadUint64(generation(m.slot(newer)))+1)
	return nil
}

// kept returns what is in the slots, the newest first.
func (m *memory) kept() (all [][]byte) {
	newer, older := m.newest()
	for _, i := range []int{newer, older} {
		s := m.slot(i)
		n := binary.NativeEndian.Uint64(s[8:])
		if atomic.LoadUint64(generation(s)) != 0 && n <= slotSize-slotHeader {
			all = append(all, append([]byte(nil), s[slotHeader:slotHeader+n]...))
		}
	}
	return all
}
