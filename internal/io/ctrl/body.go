package ctrl

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// The requests of this file have a body of any length, or a descriptor.

// hashData handles HASH_DATA: a length and that many bytes.
func (c *serverConn) hashData() {
	var q HashReq
	n, err := binary.Decode(c.req.body, binary.BigEndian, &q)
	if err != nil || len(c.req.body)-n > int(q.Length) {
		c.finish(nil, tpm.BadParameter)
		return
	}
	c.rest.hashLeft = int(q.Length)
	c.hash(c.req.body[n:])
}

// hash hashes a piece of the body.
func (c *serverConn) hash(piece []byte) {
	c.engine(func() ([]byte, error) { return nil, c.s.tpm.HashData(piece) }, func(_ []byte, err error) {
		c.rest.hashLeft -= len(piece)
		c.req.unread = c.rest.hashLeft
		if err != nil || c.rest.hashLeft == 0 {
			c.finish(nil, err)
			return
		}
		c.receive(hashing, c.buf[:min(c.rest.hashLeft, len(c.buf))], c.s.opt.waits.body)
	})
}

// hashMore hashes the next n bytes.
func (c *serverConn) hashMore(n int, err error) {
	if err != nil {
		c.req.unread, c.req.last = 0, true
		c.finish(nil, tpm.IOError)
		return
	}
	c.hash(c.into[:n])
}

// setState collects a blob before it uses the engine, so that a slow sender delays no
// other client.
func (c *serverConn) setState() {
	c.engine(func() ([]byte, error) { return nil, c.s.tpm.PrepareSetState() }, func(_ []byte, err error) {
		if err != nil {
			c.req.after = func() { c.s.opt.End(err) }
			c.finish(nil, tpm.IOError)
			return
		}
		c.prepared()
	})
}

// prepared starts to collect the blob.
func (c *serverConn) prepared() {
	q := &c.rest.set
	size, err := binary.Decode(c.req.body, binary.BigEndian, q)
	switch {
	case err != nil:
		c.finish(nil, tpm.BadParameter)
	case q.Length > MaxBlob:
		c.finish(nil, tpm.Fail)
	case len(c.req.body)-size > int(q.Length):
		c.finish(nil, tpm.BadParameter)
	default:
		c.rest.blob = append(make([]byte, 0, q.Length), c.req.body[size:]...)
		c.collect()
	}
}

// collect waits for the rest of a blob, or passes it to the TPM.
func (c *serverConn) collect() {
	r := &c.rest
	if n := len(r.blob); n < int(r.set.Length) {
		c.receive(collecting, r.blob[n:r.set.Length], c.s.opt.waits.body)
		return
	}
	c.req.unread = 0
	if r.set.Type.Name() == "" {
		c.finish(nil, tpm.BadParameter)
		return
	}
	c.engine(func() ([]byte, error) {
		return nil, c.s.tpm.SetState(r.set.Type, r.set.Flags&Encrypted != 0, r.blob)
	}, c.finish)
}

// collectMore adds n bytes to the blob.
func (c *serverConn) collectMore(n int, err error) {
	if err != nil {
		c.req.unread, c.req.last = 0, true
		c.finish(nil, tpm.BadParameter)
		return
	}
	c.rest.blob = c.rest.blob[:len(c.rest.blob)+n]
	c.collect()
}

// setDataFD passes the descriptor that came with the request to the data channel.
func (c *serverConn) setDataFD() error {
	switch {
	case c.s.opt.DataBusy():
		return fmt.Errorf("%w: %w", conn.ErrBusy, tpm.IOError)
	case c.fd < 0:
		return noDescriptor(c.FD)
	}
	if err := c.s.opt.DataFD(c.fd); err != nil {
		return fmt.Errorf("%w: %w", err, tpm.IOError)
	}
	c.fd = -1 // the data channel owns it now
	return nil
}

// noDescriptor explains why no descriptor came with a request on the socket fd.
func noDescriptor(fd int) error {
	if family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && family != unix.AF_UNIX {
		return fmt.Errorf("missing descriptor: a control channel over TCP cannot carry one; "+
			"use a Unix socket for the control channel (--ctrl type=unixio,path=...) or open a data channel with --server: %w", tpm.BadParameter)
	}
	return fmt.Errorf("missing descriptor: %w", tpm.BadParameter)
}
