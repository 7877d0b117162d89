package ledger

// castagnoli is the table of CRC-32C for steps of four bits. Package hash/crc32 computes its
// tables at run time, in 10 kB of memory of each emulator. This table is read-only data of the
// program file, which all emulators share.
var castagnoli = [16]uint32{
	0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
	0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
	0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
	0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
}

// update returns the checksum of bytes whose beginning has the checksum crc, followed by b.
func update(crc uint32, b []byte) uint32 {
	crc = ^crc
	for _, c := range b {
		crc ^= uint32(c)
		crc = crc>>4 ^ castagnoli[crc&15]
		crc = crc>>4 ^ castagnoli[crc&15]
	}
	return ^crc
}
