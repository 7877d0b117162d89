package manufacture

import "encoding/binary"

// Source: TPM Main, Part 2, 4.14 and 19.
const (
	tagNVAttributes = 0x0017     // TPM_TAG_NV_ATTRIBUTES
	tagNVPublic     = 0x0018     // TPM_TAG_NV_DATA_PUBLIC
	nvPerOwner      = 0x00020002 // TPM_NV_PER_OWNERREAD, TPM_NV_PER_OWNERWRITE
	indexLock       = 0xFFFFFFFF // TPM_NV_INDEX_LOCK
	anyLocality     = 0x1F
)

// maxWrite is the number of bytes that one command writes. It is less than the
// smallest command buffer of a TPM 1.2, 3072 bytes.
const maxWrite = 3000

// store creates an NV index and writes b into it. That needs no authorization while
// NV memory is not locked.
func (c client12) store(index uint32, b []byte) error {
	if _, err := c.run(ordNVDefineSpace, nvSpace(index, nvPerOwner, len(b))); err != nil {
		return err
	}
	for off := 0; off < len(b); off += maxWrite {
		if _, err := c.run(ordNVWriteValue, nvWrite(index, off, b[off:min(off+maxWrite, len(b))])); err != nil {
			return err
		}
	}
	return nil
}

// lockNV makes the TPM enforce the authorization of NV indices from now on.
func (c client12) lockNV() error {
	_, err := c.run(ordNVDefineSpace, nvSpace(indexLock, 0, 0))
	return err
}

// nvSpace returns the parameters of TPM_NV_DefineSpace:
//
//	off len field
//	  0   2 tag
//	  2   4 nvIndex
//	  6  26 pcrInfoRead    TPM_PCR_INFO_SHORT: no PCR, any locality
//	 32  26 pcrInfoWrite   the same
//	 58   2 permission.tag
//	 60   4 permission.attributes
//	 64   3 bReadSTClear, bWriteSTClear, bWriteDefine  0
//	 67   4 dataSize
//	 71  20 encAuth        0: no authorization value
func nvSpace(index, attributes uint32, size int) []byte {
	b := binary.BigEndian.AppendUint16(nil, tagNVPublic)
	b = binary.BigEndian.AppendUint32(b, index)
	for range 2 {
		b = append(b, 0, 3, 0, 0, 0, anyLocality)
		b = append(b, make([]byte, 20)...)
	}
	b = binary.BigEndian.AppendUint16(b, tagNVAttributes)
	b = binary.BigEndian.AppendUint32(b, attributes)
	b = append(b, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	return append(b, make([]byte, 20)...)
}

// nvWrite returns the parameters of TPM_NV_WriteValue:
//
//	off len field
//	  0   4 nvIndex
//	  4   4 offset
//	  8   4 dataSize
//	 12   n data
func nvWrite(index uint32, off int, b []byte) []byte {
	p := binary.BigEndian.AppendUint32(nil, index)
	p = binary.BigEndian.AppendUint32(p, uint32(off))
	p = binary.BigEndian.AppendUint32(p, uint32(len(b)))
	return append(p, b...)
}
