package capture

import "encoding/binary"

// The sizes in bytes of the headers before a payload.
const (
	etherSize  = 14
	ipSize     = 20
	tcpSize    = 20
	headerSize = etherSize + ipSize + tcpSize
)

// tpmPort is the port of a TPM, by which dissectors recognise it.
//
// Source: IANA's port numbers; TCG's TPM 2.0 simulator.
const tpmPort = 2321

// TCP flags.
const (
	fin = 0x01
	syn = 0x02
	ack = 0x10
)

// side is the client or the TPM in the simulated connection.
type side uint8

const (
	client side = iota
	server
)

func (s side) other() side { return 1 - s }

// connection is the simulated TCP connection of the TPM's traffic.
type connection struct {
	port      uint16    // of the client; the TPM's is tpmPort
	next      [2]uint32 // by side: the next sequence number that it sends
	checksums bool
}

// frame returns the Ethernet frame in which from sends the payload, and advances the
// sequence number:
//
//	off len
//	  0  12 MAC addresses, zero
//	 12   2 0x0800, IPv4
//	 14  20 IPv4 header without options, 127.0.0.1 to 127.0.0.1
//	 34  20 TCP header without options
//	 54     payload
//
// Source: RFC 791, RFC 9293.
//
// Compat: C-246: swtpm 0.11 writes the same constants, zero checksums, and data without a flag or an
// acknowledgment number.
func (c *connection) frame(from side, flags byte, payload []byte) []byte {
	be := binary.BigEndian
	b := make([]byte, headerSize, headerSize+len(payload))
	be.PutUint16(b[12:], 0x0800)

	ip := b[etherSize:][:ipSize]
	ip[0] = 0x45 // version 4, 5 words
	ip[1] = 0x10 // low delay
	be.PutUint16(ip[2:], uint16(ipSize+tcpSize+len(payload)))
	be.PutUint16(ip[4:], 0x069b) // identification
	be.PutUint16(ip[6:], 0x4000) // do not fragment
	ip[8] = 64                   // time to live
	ip[9] = 6                    // TCP
	copy(ip[12:], []byte{127, 0, 0, 1, 127, 0, 0, 1})

	tcp := b[etherSize+ipSize:]
	ports := [2]uint16{client: c.port, server: tpmPort}
	be.PutUint16(tcp[0:], ports[from])
	be.PutUint16(tcp[2:], ports[from.other()])
	be.PutUint32(tcp[4:], c.next[from])
	if flags&ack != 0 {
		be.PutUint32(tcp[8:], c.next[from.other()])
	}
	tcp[12] = tcpSize / 4 << 4
	tcp[13] = flags
	be.PutUint16(tcp[14:], 0xffc4) // window
	b = append(b, payload...)
	if c.checksums {
		c.sum(b)
	}

	c.next[from] += uint32(len(payload))
	if flags&(syn|fin) != 0 {
		c.next[from]++
	}
	return b
}

// sum sets the checksums of a frame: one of the IPv4 header, and one of the TCP segment with
// its pseudo header of addresses, protocol and length.
func (c *connection) sum(frame []byte) {
	be := binary.BigEndian
	ip, tcp := frame[etherSize:][:ipSize], frame[etherSize+ipSize:]
	be.PutUint16(ip[10:], checksum(ip))
	pseudo := append([]byte(nil), ip[12:20]...)
	pseudo = append(pseudo, 0, ip[9])
	pseudo = be.AppendUint16(pseudo, uint16(len(tcp)))
	be.PutUint16(tcp[16:], checksum(pseudo, tcp))
}

// checksum returns the Internet checksum of the parts: the complement of the sum of all
// 16-bit words in one's complement. All parts but the last must have an even length.
//
// Source: RFC 1071.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
