// Package capture records the commands and responses of a TPM in a pcapng file for
// Wireshark and tshark. The traffic appears as a TCP connection to port 2321, by which
// their dissectors recognise a TPM. A Filter changes messages before they are recorded;
// Redactor is the one that removes secrets.
//
// If the file cannot be written, or a reader is slow, records are lost, but no command
// waits or fails.
package capture

import (
	"io/fs"
	"math/rand/v2"
	"sync"
	"time"
)

// Options say where and how to record.
type Options struct {
	File      string      // appended to; "" for FD
	FD        int         // used if File is ""; open for writing; Capture closes it
	Mode      fs.FileMode // permission bits of the file, exact
	Truncate  bool        // empty the file first
	Checksums bool        // compute the checksums of the IP and TCP headers; otherwise zero

	Filter Filter                           // changes all messages before they are recorded; nil for none
	Note   func(format string, args ...any) // logs a loss of records
}

// Filter returns the bytes to record for a message. They are a copy, since the message
// itself is still in use. Each response follows its command.
type Filter interface {
	Command(raw []byte) []byte
	Response(rsp []byte) []byte
}

// Capture records the traffic of one TPM, with all clients in one connection. Its methods
// may be called concurrently.
type Capture struct {
	filter Filter
	now    func() time.Time

	mu     sync.Mutex
	conn   connection
	w      *writer
	closed bool
}

// Open opens the file and begins a new section in it with the handshake of a
// connection: 312 bytes.
func Open(o Options) (*Capture, error) {
	return open(o, time.Now, rand.Uint32)
}

// open does the same as Open with the given clock and source of random numbers.
func open(o Options, now func() time.Time, random func() uint32) (*Capture, error) {
	fd, name, err := openOutput(o)
	if err != nil {
		return nil, err
	}
	c := &Capture{filter: o.Filter, now: now}
	c.conn = connection{
		port:      50000 + uint16(random()%5000),
		next:      [2]uint32{random(), random()},
		checksums: o.Checksums,
	}
	preamble := section()
	preamble = c.append(preamble, client, syn, nil)
	preamble = c.append(preamble, server, syn|ack, nil)
	preamble = c.append(preamble, client, ack, nil)
	c.w = newWriter(fd, name, preamble, o.Note)
	return c, nil
}

// Command records a received command with its prefix.
func (c *Capture) Command(raw []byte) { c.record(client, raw) }

// Response records a response without the reply to a prefix.
func (c *Capture) Response(rsp []byte) { c.record(server, rsp) }

func (c *Capture) record(from side, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if c.filter != nil {
		if from == client {
			b = c.filter.Command(b)
		} else {
			b = c.filter.Response(b)
		}
	}
	c.w.put(c.append(nil, from, 0, b))
}

// append appends the block of one packet.
func (c *Capture) append(b []byte, from side, flags byte, payload []byte) []byte {
	return appendPacket(b, c.now(), c.conn.frame(from, flags, payload))
}

// Close ends the connection with FIN, FIN and ACK, and closes the file. Later messages are
// not recorded.
func (c *Capture) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	end := c.append(nil, client, fin, nil)
	end = c.append(end, server, fin|ack, nil)
	c.w.put(c.append(end, client, ack, nil))
	c.w.close()
}
