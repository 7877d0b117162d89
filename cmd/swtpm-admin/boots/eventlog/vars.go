package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// maxVariables bounds the variables of a store.
const maxVariables = 4096

// Variable is a UEFI variable.
type Variable struct {
	Name   string
	Vendor GUID
	Data   []byte
}

// Measured returns the UEFI_VARIABLE_DATA of v, whose digest firmware measures.
//
//	off len
//	  0  16 Vendor
//	 16   8 characters of Name
//	 24   8 bytes of Data
//	 32   … Name in UTF-16LE, Data
//
// Source: TCG PC Client Platform Firmware Profile 1.06, 10.4.
func (v Variable) Measured() []byte {
	name := EncodeUTF16(v.Name)
	b := bytes.Clone(v.Vendor[:])
	b = binary.LittleEndian.AppendUint64(b, uint64(len(name)/2))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(v.Data)))
	return append(append(b, name...), v.Data...)
}

// parseMeasured returns the variable in a UEFI_VARIABLE_DATA.
func parseMeasured(b []byte) (Variable, error) {
	const fixed = 32
	bad := fmt.Errorf("%w: not a UEFI_VARIABLE_DATA", ErrStructure)
	if len(b) < fixed {
		return Variable{}, bad
	}
	chars, size := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
	rest := b[fixed:]
	if chars > uint64(len(rest))/2 || size != uint64(len(rest))-2*chars {
		return Variable{}, bad
	}
	return Variable{DecodeUTF16(rest[:2*chars]), GUID(b), rest[2*chars:]}, nil
}

// The variable store of EDK2: a firmware volume whose content is a store of authenticated
// variables.
//
// Source: EDK2, MdeModulePkg/Include/Guid/VariableFormat.h.
var authenticatedStore = newGUID(0xaaf32c78, 0x947b, 0x439a, [8]byte{0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92})

const (
	storeHead     = 28 // GUID, u32 size, u8 format, u8 state, u16, u32
	variableHead  = 60 // see parseVariable
	variableStart = 0x55aa
	variableAdded = 0x3f // valid
	inTransition  = 0x3e // valid unless another one replaced it
)

// qcow2 is the magic number of an image in QEMU's own format.
const qcow2 = "QFI\xfb"

// ParseVariables returns the variables in a file such as OVMF_VARS.fd.
func ParseVariables(file []byte) ([]Variable, error) {
	if bytes.HasPrefix(file, []byte(qcow2)) {
		return nil, fmt.Errorf("%w: a qcow2 image; convert a copy with qemu-img convert -O raw", ErrStructure)
	}
	h, ok := parseVolumeHeader(file)
	if !ok || h.head+storeHead > len(file) || GUID(file[h.head:]) != authenticatedStore {
		return nil, fmt.Errorf("%w: no variable store of EDK2", ErrStructure)
	}
	store := file[h.head:]
	if size := int64(binary.LittleEndian.Uint32(store[16:])); size >= storeHead && size < int64(len(store)) {
		store = store[:size]
	}
	var all, spare []Variable
	for at := storeHead; len(all)+len(spare) < maxVariables; {
		v, state, size, ok := parseVariable(store[at:])
		if !ok {
			break
		}
		switch state {
		case variableAdded:
			all = append(all, v)
		case inTransition:
			spare = append(spare, v)
		}
		if at = align(at+size, 4); at > len(store) {
			break
		}
	}
	for _, v := range spare {
		if findVariable(all, v.Name, v.Vendor) == nil {
			all = append(all, v)
		}
	}
	return all, nil
}

// parseVariable returns the variable that b starts with, its state, and its size in bytes.
//
//	off len
//	  0   2 0x55AA
//	  2   1 state
//	  4   4 attributes
//	  8   8 monotonic count
//	 16  16 time
//	 32   4 index of the public key
//	 36   4 size of the name in bytes, with its end mark
//	 40   4 size of the data in bytes
//	 44  16 vendor
//	 60   … name, data
func parseVariable(b []byte) (v Variable, state byte, size int, ok bool) {
	if len(b) < variableHead || binary.LittleEndian.Uint16(b) != variableStart {
		return v, 0, 0, false
	}
	name, data := uint64(binary.LittleEndian.Uint32(b[36:])), uint64(binary.LittleEndian.Uint32(b[40:]))
	if variableHead+name+data > uint64(len(b)) {
		return v, 0, 0, false
	}
	end := variableHead + int(name)
	v = Variable{DecodeUTF16(b[variableHead:end]), GUID(b[44:]), b[end : end+int(data)]}
	return v, b[2], end + int(data), true
}

// findVariable returns the variable with this name, nil if there is none.
func findVariable(all []Variable, name string, vendor GUID) *Variable {
	for i := range all {
		if all[i].Name == name && all[i].Vendor == vendor {
			return &all[i]
		}
	}
	return nil
}
