package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The memory that outlives the process, a memfd:
//
//	  off  len field
//	    0    8 magic      names the layout
//	   64   40 cells      Cells
//	  128   32 sockets    SocketID of each listener that we made
//	 4096   64 records    Record, one for each client
//	20480      profile    see profile.go
//	65536    2 slots      see slot.go
//
// Integers have the byte order of the machine, because no other machine reads them.
const (
	magic        = uint64(0x73777470_6d6b7031) // "swtpmkp1"
	cellsAt      = 64
	socketsAt    = 128
	recordsAt    = 4096
	recordStride = 256
	records      = 64
	slotsAt      = 65536
	memorySize   = slotsAt + slotCount*slotSize
)

// Cells are values that change without the engine's lock. The engine writes the first two,
// package emul the others. emul/libtpms has the first two in C, struct cells.
type Cells struct {
	Locality uint32 // of the next command
	LastCode uint32 // of the last command
	Resumes  uint32 // starts with the state of a previous process that have begun and not ended
	Ready    uint32 // 1 once clients could have been served
	Init     uint32 // 1 if the next process has to execute the INIT that this one could not execute
	_        uint32

	// Token and Revision are the right to write to a state in a cluster store; 0 for none.
	Token    uint64
	Revision uint64
}

// memory is mapped as long as the process lives. A page that was never written takes no
// memory.
type memory struct {
	fd int
	b  []byte
}

// newMemory makes an empty memory. It is sealed: no process can change its size, because
// access to a missing page would end this process, or execute it.
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

// oldMemory maps the memory of a previous process. It fails if the layout is unknown. It owns fd,
// and closes it if it fails.
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
var errVersion = errors.New("its layout is unknown to this version")

// checkMemory fails unless fd has the size of a memory and a seal that prevents it from shrinking.
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

func (m *memory) cells() *Cells { return (*Cells)(unsafe.Pointer(&m.b[cellsAt])) }

func (m *memory) record(i int) *Record {
	return RecordAt(m.b[recordsAt+i*recordStride:][:recordStride])
}

func (m *memory) socket(i int) *SocketID {
	return (*SocketID)(unsafe.Pointer(&m.b[socketsAt+16*i]))
}

func (m *memory) slots() (s [slotCount][]byte) {
	for i := range s {
		s[i] = m.b[slotsAt+i*slotSize:][:slotSize]
	}
	return s
}
