package payload

// orderlyRAM decodes the contents of the orderly NV indices. libtpms computes the sizes in memory
// from the size of the contents; the size before each index only means that another one follows.
//
// Source: libtpms, src/tpm2/NVMarshal.c, INDEX_ORDERLY_RAM_Unmarshal.
func (p *permanent) orderlyRAM() {
	const headSize = 12 // in memory, of each index
	version := p.header(orderlyRAMHeader)
	space := int(p.u32("the space for orderly NV indices"))
	for used := 0; used+headSize <= space && !p.done(); {
		if p.u32("the size of an orderly NV index") == 0 {
			break
		}
		handle := p.u32("the handle of an orderly NV index")
		p.u32("the attributes of an orderly NV index")
		n := p.u16("the size of the contents of an orderly NV index")
		p.skip(int(n), "the contents of an orderly NV index")
		p.inRAM[handle] = uint32(n)
		used += headSize + int(n)
	}
	p.tail(version)
}

// nvram decodes the NV memory: a list of NV indices and persistent objects, which the size 0
// ends.
//
// Source: libtpms, src/tpm2/NVMarshal.c, USER_NVRAM_Unmarshal.
func (p *permanent) nvram() {
	version := p.header(nvramHeader)
	p.u64("the size of the NV memory")
	for !p.done() && p.u32("the size of an entry of the NV memory") != 0 {
		switch handle := p.u32("a handle in the NV memory"); handle >> 24 {
		case typeNVIndex:
			p.nvIndex(handle)
		case typePersistent:
			p.object()
		default:
			p.failAt(p.off-4, "0x%08x is the handle of neither an NV index nor a persistent object", handle)
		}
	}
	p.u64("the highest NV counter")
	p.tail(version)
}

// nvIndex decodes an NV index. libtpms looks for the contents of an orderly index in RAM, and
// dereferences a null pointer if they are missing there.
//
// Source: libtpms, src/tpm2/NVMarshal.c, NV_INDEX_Unmarshal; NVDynamic.c.
func (p *permanent) nvIndex(entry uint32) {
	version := p.header(nvIndexHeader)
	handle := p.u32("the handle of an NV index")
	if handle != entry {
		p.failAt(p.off-4, "the handle of the NV index is 0x%08x, but 0x%08x before it", handle, entry)
	}
	p.u16("the name algorithm of an NV index")
	attributes := p.u32("the attributes of an NV index")
	p.buffer20("the policy of an NV index")
	size := uint32(p.u16("the size of an NV index"))
	p.buffer20("the secret of an NV index")
	p.tail(version)
	n := p.count(p.u32("the size of the contents of an NV index"), 1, "bytes of an NV index")
	p.skip(n, "the contents of an NV index")
	if attributes&nvOrderly == 0 {
		if uint32(n) < size {
			p.failAt(p.off-n, "NV index 0x%08x has %d bytes, but only %d are stored", handle, size, n)
		}
		return
	}
	if in, ok := p.inRAM[handle]; !ok || in != size {
		p.failAt(p.off, "the contents of orderly NV index 0x%08x are missing", handle)
	}
}
