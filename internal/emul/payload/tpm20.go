package payload

import "fmt"

// The magic numbers of the structures of a TPM 2.0, and the newest version of
// each whose layout is known.
//
// Source: libtpms, src/tpm2/NVMarshal.c.
var (
	allHeader               = header{"the permanent state", 0xab364723, 4}
	constantsHeader         = header{"the compile-time constants", 0xc9ea6431, 3}
	dataHeader              = header{"the permanent data", 0x12213443, 5}
	pcrPolicyHeader         = header{"the PCR policies", 0x176be626, 2}
	orderlyHeader           = header{"the orderly data", 0x56657887, 2}
	drbgHeader              = header{"the random number generator", 0x6fe83ea1, 2}
	resetHeader             = header{"the data until reset", 0x01102332, 4}
	clearHeader             = header{"the data until clear", 0x98897667, 2}
	pcrSaveHeader           = header{"the saved PCRs", 0x7372eabc, 2}
	pcrAuthHeader           = header{"the PCR secrets", 0x6be82eaf, 2}
	orderlyRAMHeader        = header{"the orderly NV indices", 0x5346feab, 2}
	nvramHeader             = header{"the NV memory", 0x094f22c3, 2}
	nvIndexHeader           = header{"an NV index", 0x2547265a, 2}
	anyObjectHeader         = header{"an object", 0xfe9a3974, 2}
	objectHeader            = header{"the key of an object", 0x75be73af, 3}
	exponentHeader          = header{"a private exponent", 0x0854eab2, 2}
	bigNumberHeader         = header{"a big number", 0x2fe736ab, 2}
	volatileHeader          = header{"the volatile state", 0x45637889, 0xffff}
	minVersioned     uint16 = 2 // from this version on a header names a minimum
)

// header describes the first fields of a structure:
//
//	off len field
//	  0   2 version
//	  2   4 magic
//	  6   2 the oldest version whose reader can read this; if version >= 2
//
// Source: libtpms, src/tpm2/NVMarshal.c, NV_HEADER_UnmarshalVerbose.
type header struct {
	name   string
	magic  uint32
	newest uint16
}

// header reads h and returns the version. A structure that a reader of h.newest
// cannot read ends the decoding.
func (r *reader) header(h header) uint16 {
	version := r.u16("the version of " + h.name)
	magic := r.u32("the magic of " + h.name)
	if magic != h.magic {
		r.failAt(r.off-4, "the magic of %s is 0x%08x, not 0x%08x", h.name, magic, h.magic)
	}
	if version == 0 {
		r.failAt(r.off-6, "the version of %s is 0", h.name)
	}
	if version >= minVersioned {
		if oldest := r.u16("the minimum version of " + h.name); oldest > version {
			r.failAt(r.off-2, "the minimum version of %s is %d, above its version %d", h.name, oldest, version)
		} else if oldest > h.newest {
			if !r.done() {
				r.needs = fmt.Sprintf("%s has version %d, which readers before version %d cannot read", h.name, version, oldest)
			}
			r.unknown()
		}
	}
	return version
}

// block reads the head of the block with the fields that a later version has
// added to a structure:
//
//	off len field
//	  0   1 1 if a block follows
//	  1   2 bytes of the block; without these three
//
// and decodes them with fields, or passes over them if fields is nil.
//
// Source: libtpms, src/tpm2/NVMarshal.c, block_skip_read.
func (r *reader) block(fields func()) {
	r.flag(1, "the mark of a block")
	n := r.u16("the size of a block")
	if r.done() {
		return
	}
	if r.b[r.off-3] == 0 {
		return
	}
	if int(n) > r.left() {
		r.failAt(r.off-2, "a block takes %d bytes, but %d are left", n, r.left())
		return
	}
	if fields == nil {
		r.skip(int(n), "a block")
		return
	}
	fields() // libtpms does not look at the size of a block that it reads
}

// tail reads the empty or unknown block that ends a structure of the given
// version.
func (r *reader) tail(version uint16) {
	if version >= minVersioned {
		r.block(nil)
	}
}

// volatile20 checks the frame of the volatile blob of a TPM 2.0.
//
// Source: libtpms, src/tpm2/Volatile.c, VolatileState_Load; NVMarshal.c,
// VolatileState_Unmarshal.
func volatile20(r *reader) {
	r.sha1Trailer()
	r.header(volatileHeader)
}

// buffer20 reads a TPM2B and returns its bytes. libtpms knows the limits.
//
// Source: TPM 2.0 Library, Part 2, "Sized Buffers".
func (r *reader) buffer20(what string) []byte {
	n := r.u16("the size of " + what)
	return r.take(int(n), what)
}

// buffers20 reads n TPM2B.
func (r *reader) buffers20(n int, what string) {
	for range n {
		r.buffer20(what)
	}
}

// array20 reads an array of up to 65,535 items of size bytes each.
func (r *reader) array20(size int, what string) {
	n := r.u16("the length of " + what)
	r.skip(int(n)*size, what)
}

// pcrSelections20 reads a TPML_PCR_SELECTION.
func (r *reader) pcrSelections20() {
	for range r.count(r.u32("the number of PCR selections"), 3, "PCR selections") {
		if r.done() {
			return
		}
		r.u16("the hash of a PCR selection")
		r.skip(int(r.u8("the size of a PCR selection")), "a PCR selection")
	}
}
