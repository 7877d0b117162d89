package recorder

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

const (
	// ringSize is enough for the beginning of a boot, what one call of Take records, and
	// finalSize twice.
	ringSize = 24 << 10

	// finalSize is the space for the last records of a boot: an overflow, values and the end.
	finalSize = 128 + ledger.MaxBody

	// tapSize is the size of the memory for the engine, which shares a page with the beginning of
	// the ring.
	tapSize = 2048

	// scratchSize is the size of the memory for reading files and directories.
	scratchSize = 12 << 10

	// firstPage is the part of the ring in its first page.
	firstPage = 4<<10 - tapSize
)

const (
	recordHead = 8
	crcSize    = 4

	// kindBegin is a kind of records that only the ring has: the header of a new file follows.
	kindBegin = 0
)

// ring contains the records that are not written yet, each in the format of the file, but without
// its checksum. One goroutine at a time writes the bytes from begin to end; meanwhile records
// may be appended.
type ring struct {
	b          []byte
	begin, end int
	used       bool // more than the first page
}

// memory contains the large parts of a Recorder. The system allocates each page when it is first
// written. It has no pointers, because Go does not manage it.
type memory struct {
	tap     [tapSize]byte
	ring    [ringSize - tapSize]byte
	scratch [scratchSize]byte
	state   ledger.State
	watch   watch
	good    [maxSucceeded]session // that succeeded, in any boot of this process
	unused  [maxUnused]unused
}

// newMemory returns memory from mmap(2), which Go does not manage.
func newMemory() (*memory, error) {
	p, err := unix.MmapPtr(-1, 0, nil, unsafe.Sizeof(memory{}), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("boot ledger: %w", err)
	}
	return (*memory)(p), nil
}

// release returns to the system the pages that the last write has used, except the first one,
// which has enough space for the records of most writes. The ring is empty and locked.
func (r *Recorder) release() {
	if !r.ring.used {
		return
	}
	r.ring.used = false
	_ = unix.Madvise(r.memory.ring[firstPage:], unix.MADV_DONTNEED)
	_ = unix.Madvise(r.memory.scratch[:], unix.MADV_DONTNEED)
}

// reserve returns memory at the end for a record with a body of at most n bytes, nil if fewer than
// spare bytes would be left. moves says that the records may be moved: no goroutine writes them.
func (r *ring) reserve(n, spare int, moves bool) []byte {
	n += recordHead + crcSize
	if len(r.b)-r.end < n+spare && moves && r.begin > 0 {
		r.end = copy(r.b, r.b[r.begin:r.end])
		r.begin = 0
	}
	if len(r.b)-r.end < n+spare {
		return nil
	}
	return r.b[r.end : r.end+n : r.end+n]
}

// commit adds record, which the caller has written into memory from reserve, without the checksum.
func (r *ring) commit(record []byte) {
	r.end += len(record) + crcSize
	r.used = r.used || r.end > firstPage
}

func (r *ring) empty() bool { return r.begin == r.end }

// written removes n bytes at the beginning.
func (r *ring) written(n int) {
	r.begin += n
	if r.empty() {
		r.begin, r.end = 0, 0
	}
}

// appendHead appends the head of a record with a body of size bytes.
func appendHead(b []byte, rec ledger.Record, size int) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	b = append(b, byte(rec.Kind), rec.Locality)
	return binary.BigEndian.AppendUint32(b, rec.Time)
}

// recordSize returns the size of the record at the beginning of b.
func recordSize(b []byte) int { return recordHead + int(binary.BigEndian.Uint16(b)) + crcSize }
