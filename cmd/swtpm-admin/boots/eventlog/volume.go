package eventlog

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Bounds of a firmware image.
const (
	maxVolumes  = 64
	maxNesting  = 8
	maxUnpacked = 64 << 20 // bytes of all sections that are unpacked, and of the tables for it
)

// Volume is a firmware volume, as the firmware has it in memory.
type Volume struct {
	Path string // position in the image, such as "0x84000/0x20"
	Data []byte
}

// volumeHeader contains the fields of a firmware volume's header that this program uses.
type volumeHeader struct {
	size int // of the volume
	head int // where its content begins
}

// parseVolumeHeader returns the header that b starts with.
//
//	off len
//	 32   8 size of the volume
//	 40   4 "_FVH"
//	 48   2 size of the header
//	 52   2 offset of an extended header, or 0
//
// Source: Platform Initialization Specification, volume 3, 3.2.1.
func parseVolumeHeader(b []byte) (h volumeHeader, ok bool) {
	const fixed = 56
	if len(b) < fixed || string(b[40:44]) != "_FVH" {
		return h, false
	}
	size := binary.LittleEndian.Uint64(b[32:])
	h.head = int(binary.LittleEndian.Uint16(b[48:]))
	if size < fixed || size > uint64(len(b)) || h.head < fixed || uint64(h.head) > size {
		return h, false
	}
	h.size = int(size)
	return h, true
}

// ParseFirmware returns all firmware volumes in an image such as OVMF_CODE.fd, including those
// in compressed sections.
func ParseFirmware(file []byte) ([]Volume, error) {
	w := &walker{room: maxUnpacked}
	for at := 0; at+56 <= len(file); {
		h, ok := parseVolumeHeader(file[at:])
		if !ok {
			at += 8
			continue
		}
		w.volume(fmt.Sprintf("%#x", at), file[at:at+h.size], 0)
		at = align(at+h.size, 8)
	}
	if len(w.found) == 0 {
		return nil, fmt.Errorf("%w: no firmware volume", ErrStructure)
	}
	return w.found, nil
}

// walker collects volumes.
type walker struct {
	found []Volume
	room  int // bytes of content and tables that may still be unpacked
}

// volume adds a volume and those in its files.
func (w *walker) volume(path string, b []byte, depth int) {
	h, ok := parseVolumeHeader(b)
	if !ok || depth > maxNesting || len(w.found) >= maxVolumes {
		return
	}
	b = b[:h.size]
	w.found = append(w.found, Volume{path, b})
	at := h.head
	if ext := int(binary.LittleEndian.Uint16(b[52:])); ext != 0 && ext+20 <= len(b) {
		size := uint64(binary.LittleEndian.Uint32(b[ext+16:]))
		if size > uint64(len(b)-ext) {
			return
		}
		at = align(ext+int(size), 8)
	}
	for at+24 <= len(b) {
		size := w.file(path, at, b[at:], depth)
		if size == 0 {
			return
		}
		at = align(at+size, 8)
	}
}

// file searches the file that b starts with and returns its size, 0 at the end of the
// files.
//
//	off len
//	  0  16 name
//	 18   1 type
//	 19   1 attributes; bit 0: the size is the u64 at 24
//	 20   3 size with this header
//	 24   8 size of a large file
func (w *walker) file(path string, at int, b []byte, depth int) int {
	const pad, raw = 0xf0, 0x01
	head, size := 24, uint64(b[20])|uint64(b[21])<<8|uint64(b[22])<<16
	if b[19]&1 != 0 && len(b) >= 32 {
		head, size = 32, binary.LittleEndian.Uint64(b[24:])
	}
	if size < uint64(head) || size > uint64(len(b)) || size == 0xffffff && head == 24 {
		return 0
	}
	if b[18] != pad && b[18] != raw {
		w.sections(fmt.Sprintf("%s/%#x", path, at), b[head:size], depth)
	}
	return int(size)
}

// lzmaSection is the type of a section that is compressed with LZMA.
var lzmaSection = newGUID(0xee4e5898, 0x3914, 0x4259, [8]byte{0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf})

// sections searches sections: u24 size, u8 type, or size 0xFFFFFF and the size in the u32
// that follows; the content.
func (w *walker) sections(path string, b []byte, depth int) {
	const guided, image = 0x02, 0x17
	if depth > maxNesting {
		return
	}
	for at := 0; at+4 <= len(b); {
		head, size := 4, uint64(b[at])|uint64(b[at+1])<<8|uint64(b[at+2])<<16
		if size == 0xffffff && at+8 <= len(b) {
			head, size = 8, uint64(binary.LittleEndian.Uint32(b[at+4:]))
		}
		if size < uint64(head) || size > uint64(len(b)-at) {
			return
		}
		section := b[at : at+int(size)]
		switch content := section[head:]; b[at+3] {
		case image:
			w.volume(path, content, depth+1)
		case guided:
			w.guided(path, section, content, depth)
		}
		at = align(at+int(size), 4)
	}
}

// guided searches a section with a GUID: the GUID, u16 offset of the data in the section,
// u16 attributes.
func (w *walker) guided(path string, section, content []byte, depth int) {
	if len(content) < 20 {
		return
	}
	offset := int(binary.LittleEndian.Uint16(content[16:]))
	if offset > len(section) {
		return
	}
	data := section[offset:]
	if GUID(content) == lzmaSection {
		cost, err := costLZMA(data)
		if err != nil || cost > uint64(w.room) {
			return
		}
		w.room -= int(cost) // even if the stream is damaged, because a part of it was unpacked
		if data, err = unpackLZMA(data, maxUnpacked); err != nil {
			return
		}
	}
	w.sections(path, slices.Clip(data), depth+1)
}
