package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
)

// maxSections bounds the sections of a PE image.
const maxSections = 96

// Section is a section of a PE image.
type Section struct {
	Name string
	Data []byte // in the file
	Size int    // in memory

	offset int // of Data
}

// maxZeros bounds the zeros that follow the data of a section in memory.
const maxZeros = 1 << 20

// Memory returns what the section has in memory, but not more than maxZeros after its data.
func (s Section) Memory() []byte {
	if s.Size <= len(s.Data) {
		return s.Data[:s.Size]
	}
	return append(slices.Clip(s.Data), make([]byte, min(s.Size-len(s.Data), maxZeros))...)
}

// Image is a PE image: a boot loader, a kernel, or a unified kernel image.
type Image struct {
	Sections []Section

	file         []byte
	checksum     int // offset
	certificates int // offset of the entry of the certificate table, 0 if there is none
	headers      int // size of the headers
	signature    [2]int
}

// ParseImage returns the PE image in file.
//
// Source: PE format: "MZ", at 0x3C the offset of "PE\0\0"; the COFF header: at 2 u16
// sections, at 16 u16 size of the optional header; the optional header: u16 magic, at 60
// u32 size of the headers, at 64 u32 checksum, at 92 (PE32) or 108 (PE32+) u32 directories,
// the fifth of which is the certificate table; the sections: 8 bytes name, u32 size in
// memory, u32 address, u32 size in the file, u32 offset, 16 more bytes.
func ParseImage(file []byte) (*Image, error) {
	le := binary.LittleEndian
	bad := func(what string) (*Image, error) { return nil, fmt.Errorf("%w: %s", ErrStructure, what) }
	if len(file) < 64 || string(file[:2]) != "MZ" {
		return bad("not a PE image")
	}
	coff := uint64(le.Uint32(file[60:]))
	if coff+24 > uint64(len(file)) || string(file[coff:coff+4]) != "PE\x00\x00" {
		return bad("not a PE image")
	}
	at := int(coff) + 4
	count, optional := int(le.Uint16(file[at+2:])), int(le.Uint16(file[at+16:]))
	opt := at + 20
	if count > maxSections || opt+optional > len(file) || optional < 112 {
		return bad("the headers are incomplete")
	}
	m := &Image{file: file, checksum: opt + 64, headers: int(le.Uint32(file[opt+60:]))}
	directories := opt + 92
	switch le.Uint16(file[opt:]) {
	case 0x10b:
	case 0x20b:
		directories = opt + 108
	default:
		return bad("unknown magic of the optional header")
	}
	if n := le.Uint32(file[directories:]); n > 4 && directories+4+5*8 <= opt+optional {
		m.certificates = directories + 4 + 4*8
		begin, size := uint64(le.Uint32(file[m.certificates:])), uint64(le.Uint32(file[m.certificates+4:]))
		if size != 0 && begin+size <= uint64(len(file)) {
			m.signature = [2]int{int(begin), int(size)}
		}
	}
	if m.headers > len(file) || m.headers < opt+optional+40*count {
		return bad("unexpected size of the headers")
	}
	if !m.sections(file[opt+optional:], count, stringTable(file, at)) {
		return bad("a section is outside of the file, or sections overlap")
	}
	return m, nil
}

// stringTable returns the table of long names, nil if there is none. It follows the
// symbols, which have 18 bytes each. Their offset in the file and their count are u32 at 8 and 12
// in the COFF header, which is at coff.
func stringTable(file []byte, coff int) []byte {
	symbols, count := uint64(binary.LittleEndian.Uint32(file[coff+8:])), uint64(binary.LittleEndian.Uint32(file[coff+12:]))
	if begin := symbols + 18*count; symbols != 0 && begin < uint64(len(file)) {
		return file[begin:]
	}
	return nil
}

// maxName bounds a long name of a section.
const maxName = 64

// sectionName returns the name in field. If field is "/" and an offset, the name is in the table
// long.
func sectionName(field, long []byte) string {
	name := strings.TrimRight(string(field), "\x00")
	digits, ok := strings.CutPrefix(name, "/")
	at, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil || at >= uint64(len(long)) {
		return name
	}
	long = long[at:min(at+maxName, uint64(len(long)))]
	if end := bytes.IndexByte(long, 0); end > 0 {
		return string(long[:end])
	}
	return name
}

func (m *Image) sections(table []byte, count int, long []byte) bool {
	le := binary.LittleEndian
	room := uint64(len(m.file)) // sections that share their data would multiply the work
	for i := range count {
		h := table[40*i:]
		memory, size, offset := uint64(le.Uint32(h[8:])), uint64(le.Uint32(h[16:])), uint64(le.Uint32(h[20:]))
		if size != 0 && offset+size > uint64(len(m.file)) || memory > 1<<30 || size > room {
			return false
		}
		room -= size
		s := Section{Name: sectionName(h[:8], long), Size: int(memory), offset: int(offset)}
		if size != 0 {
			s.Data = m.file[offset : offset+size]
		}
		m.Sections = append(m.Sections, s)
	}
	return true
}

// Section returns the section with this name, nil if there is none.
func (m *Image) Section(name string) *Section {
	i := slices.IndexFunc(m.Sections, func(s Section) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &m.Sections[i]
}

// Authenticode returns the digest of the image with h. It covers the image without its checksum and
// signature, with the sections in the order of their offsets.
//
// Source: Windows Authenticode Portable Executable Signature Format, "Calculating the PE
// Image Hash".
func (m *Image) Authenticode(h hash.Hash) []byte {
	h.Reset()
	write := func(begin, end int) { h.Write(m.file[begin:end]) }
	write(0, m.checksum)
	if m.certificates != 0 {
		write(m.checksum+4, m.certificates)
		write(m.certificates+8, m.headers)
	} else {
		write(m.checksum+4, m.headers)
	}
	sorted := slices.Clone(m.Sections)
	slices.SortStableFunc(sorted, func(a, b Section) int { return a.offset - b.offset })
	sum := m.headers
	for _, s := range sorted {
		h.Write(s.Data)
		sum += len(s.Data)
	}
	if end := len(m.file) - m.signature[1]; sum < end {
		write(sum, end)
	}
	return h.Sum(nil)
}
