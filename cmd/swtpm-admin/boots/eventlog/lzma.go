package eventlog

import (
	"encoding/binary"
	"fmt"
)

// costLZMA returns the number of bytes of memory that unpacking of in needs: for the content, and
// for the table of literals. in determines both sizes.
func costLZMA(in []byte) (uint64, error) {
	const fixed = 13
	if len(in) < fixed || in[0] >= 9*5*5 {
		return 0, fmt.Errorf("%w: not an LZMA stream", ErrStructure)
	}
	p := int(in[0])
	table := uint64(0x300<<(p%9+p/9%5)) * 2
	size := binary.LittleEndian.Uint64(in[5:])
	if size > maxUnpacked {
		return 0, fmt.Errorf("%w: %d bytes after unpacking, limit %d", ErrStructure, size, maxUnpacked)
	}
	return table + size, nil
}

// unpackLZMA unpacks LZMA's own file format: a byte of properties, u32 size of the
// dictionary, u64 size of the content, the stream. Content larger than limit is refused.
//
// Source: LZMA specification (7-zip), LzmaSpec.
func unpackLZMA(in []byte, limit int) ([]byte, error) {
	const fixed = 13
	bad := fmt.Errorf("%w: not an LZMA stream", ErrStructure)
	if len(in) < fixed+5 || in[0] >= 9*5*5 {
		return nil, bad
	}
	size := binary.LittleEndian.Uint64(in[5:])
	if size > uint64(max(limit, 0)) {
		return nil, fmt.Errorf("%w: %d bytes after unpacking, limit %d", ErrStructure, size, limit)
	}
	p := int(in[0])
	d := newLZMA(in[fixed:], p%9, p/9%5, p/45)
	d.unpack(int(size))
	if d.bad || len(d.out) != int(size) {
		return nil, bad
	}
	return d.out, nil
}

// prob is the probability of a bit 0, of 2048.
type prob = uint16

// tree is a tree of probabilities.
type tree []prob

func newTree(bits int) tree {
	t := make(tree, 1<<bits)
	for i := range t {
		t[i] = 1024
	}
	return t
}

// lengths decodes the lengths of matches.
type lengths struct {
	choice   tree
	low, mid []tree // by position
	high     tree
}

func newLengths(pb int) *lengths {
	l := &lengths{choice: newTree(1), high: newTree(8)}
	for range 1 << pb {
		l.low, l.mid = append(l.low, newTree(3)), append(l.mid, newTree(3))
	}
	return l
}

func (d *lzma) length(l *lengths, pos int) int {
	switch {
	case d.bit(&l.choice[0]) == 0:
		return d.tree(l.low[pos], 3)
	case d.bit(&l.choice[1]) == 0:
		return 8 + d.tree(l.mid[pos], 3)
	}
	return 16 + d.tree(l.high, 8)
}

// lzma is a decoder.
type lzma struct {
	in       []byte
	rng      uint32
	code     uint32
	bad      bool
	out      []byte
	lc, lp   int
	pb       int
	literals tree
	match    tree // 12 states, 16 positions
	rep      tree
	repG0    tree
	repG1    tree
	repG2    tree
	rep0Long tree
	slots    []tree // by length
	special  tree
	aligned  tree
	first    *lengths
	again    *lengths
}

func newLZMA(in []byte, lc, lp, pb int) *lzma {
	d := &lzma{
		in: in[5:], rng: 0xffffffff, code: binary.BigEndian.Uint32(in[1:]), bad: in[0] != 0,
		lc: lc, lp: lp, pb: pb, match: newTree(8), rep: newTree(4), repG0: newTree(4), repG1: newTree(4), repG2: newTree(4),
		rep0Long: newTree(8), special: newTree(7), aligned: newTree(4), first: newLengths(pb), again: newLengths(pb),
	}
	for range 4 {
		d.slots = append(d.slots, newTree(6))
	}
	d.literals = make(tree, 0x300<<(lc+lp))
	for i := range d.literals {
		d.literals[i] = 1024
	}
	return d
}

func (d *lzma) normalize() {
	if d.rng >= 1<<24 {
		return
	}
	var next byte
	if len(d.in) == 0 {
		d.bad = true
	} else {
		next, d.in = d.in[0], d.in[1:]
	}
	d.rng <<= 8
	d.code = d.code<<8 | uint32(next)
}

func (d *lzma) bit(p *prob) int {
	bound := d.rng >> 11 * uint32(*p)
	bit := 0
	if d.code < bound {
		d.rng = bound
		*p += (2048 - *p) >> 5
	} else {
		d.rng -= bound
		d.code -= bound
		*p -= *p >> 5
		bit = 1
	}
	d.normalize()
	return bit
}

// direct decodes bits without probabilities.
func (d *lzma) direct(bits int) int {
	v := 0
	for range bits {
		d.rng >>= 1
		b := 0
		if d.code >= d.rng {
			d.code -= d.rng
			b = 1
		}
		d.normalize()
		v = v<<1 | b
	}
	return v
}

func (d *lzma) tree(t tree, bits int) int {
	m := 1
	for range bits {
		m = m<<1 | d.bit(&t[m])
	}
	return m - 1<<bits
}

// reverse decodes a number whose lowest bit comes first.
func (d *lzma) reverse(t tree, bits int) int {
	m, v := 1, 0
	for i := range bits {
		b := d.bit(&t[m])
		m = m<<1 | b
		v |= b << i
	}
	return v
}

// literal decodes a byte. After a match, its probabilities depend on the byte at the last distance.
func (d *lzma) literal(state, distance int) {
	pos, before := len(d.out), 0
	if pos > 0 {
		before = int(d.out[pos-1])
	}
	at := 0x300 * ((pos&(1<<d.lp-1))<<d.lc + before>>(8-d.lc))
	t, m := d.literals[at:at+0x300], 1
	if state >= 7 && distance < pos {
		for match := int(d.out[pos-1-distance]); m < 0x100; match <<= 1 {
			want := match >> 7 & 1
			b := d.bit(&t[(1+want)<<8+m])
			if m = m<<1 | b; want != b {
				break
			}
		}
	}
	for m < 0x100 {
		m = m<<1 | d.bit(&t[m])
	}
	d.out = append(d.out, byte(m))
}

// distance decodes how far back a match is.
func (d *lzma) distance(length int) int {
	slot := d.tree(d.slots[min(length, 3)], 6)
	if slot < 4 {
		return slot
	}
	bits := slot>>1 - 1
	v := (2 | slot&1) << bits
	if slot < 14 {
		return v + d.reverse(d.special[v-slot:], bits)
	}
	return v + d.direct(bits-4)<<4 + d.reverse(d.aligned, 4)
}

func (d *lzma) unpack(size int) {
	var reps [4]int
	state := 0
	for len(d.out) < size && !d.bad {
		pos := len(d.out) & (1<<d.pb - 1)
		if d.bit(&d.match[state<<4+pos]) == 0 {
			d.literal(state, reps[0])
			switch {
			case state < 4:
				state = 0
			case state < 10:
				state -= 3
			default:
				state -= 6
			}
			continue
		}
		length := 0
		if d.bit(&d.rep[state]) == 0 {
			length = d.length(d.first, pos)
			reps = [4]int{d.distance(length), reps[0], reps[1], reps[2]}
			state = after(state, 7, 10)
		} else if length = d.repeat(&reps, state, pos); length < 0 {
			length, state = -1, after(state, 9, 11)
		} else {
			state = after(state, 8, 11)
		}
		d.copy(reps[0], length+2, size)
	}
}

// after returns one of two states: the second one follows a match.
func after(state, literal, match int) int {
	if state < 7 {
		return literal
	}
	return match
}

// repeat decodes a match at one of the last distances, which becomes the last one. It
// returns -1 for a single byte.
func (d *lzma) repeat(reps *[4]int, state, pos int) int {
	if d.bit(&d.repG0[state]) == 0 {
		if d.bit(&d.rep0Long[state<<4+pos]) == 0 {
			return -1
		}
		return d.length(d.again, pos)
	}
	n := 1
	if d.bit(&d.repG1[state]) != 0 {
		n = 2 + d.bit(&d.repG2[state])
	}
	last := reps[n]
	copy(reps[1:n+1], reps[:n])
	reps[0] = last
	return d.length(d.again, pos)
}

// copy repeats bytes that were unpacked before, up to the size of the content.
func (d *lzma) copy(distance, length, size int) {
	from := len(d.out) - 1 - distance
	if from < 0 {
		d.bad = true
		return
	}
	for range min(length, size-len(d.out)) {
		d.out = append(d.out, d.out[from])
		from++
	}
}
