package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ReaderSize is the size in bytes of the smallest buffer of a Reader, and of the largest record.
const ReaderSize = recordHead + MaxBody + crcSize

// Reader reads a file record by record with a fixed buffer, while Parse needs memory for the
// whole file.
type Reader struct {
	Header
	Records int // that Next has returned

	file       io.Reader
	b          []byte // buffer; from begin to end it has bytes of the file
	begin, end int
	w          Writer
}

// NewReader reads the header of a file. It fails with ErrDamaged if that is not intact. b is the
// buffer of the Reader, at least ReaderSize bytes; the caller must not use it meanwhile.
func NewReader(file io.Reader, b []byte) (*Reader, error) {
	r := &Reader{file: file, b: b}
	if err := r.fill(); err != nil {
		return nil, err
	}
	boot, w, err := parseHeader(r.b[:r.end])
	if err != nil {
		return nil, err
	}
	r.Header, r.w, r.begin = boot.Header, *w, boot.Size
	return r, nil
}

// fill reads until the buffer is full or the file ends.
func (r *Reader) fill() error {
	r.end = copy(r.b, r.b[r.begin:r.end])
	r.begin = 0
	n, err := io.ReadFull(r.file, r.b[r.end:])
	r.end += n
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// Next returns the next record, whose body is valid until the next call. It fails with io.EOF at
// the end of the file, and with ErrDamaged where a record is not intact.
func (r *Reader) Next() (Record, error) {
	if r.end-r.begin < recordHead || r.end-r.begin < r.size() {
		if err := r.fill(); err != nil {
			return Record{}, err
		}
	}
	if r.begin == r.end {
		return Record{}, io.EOF
	}
	rec, n, err := r.w.next(r.b[r.begin:r.end])
	if err != nil {
		return Record{}, fmt.Errorf("%w: record %d: %w", ErrDamaged, r.Records+1, err)
	}
	r.begin += n
	r.Records++
	return rec, nil
}

// size returns the size of the record at begin.
func (r *Reader) size() int {
	return recordHead + int(binary.BigEndian.Uint16(r.b[r.begin:])) + crcSize
}

// Writer returns the writer for what follows the last record that Next has returned.
func (r *Reader) Writer() Writer { return r.w }
