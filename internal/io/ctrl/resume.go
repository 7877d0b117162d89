package ctrl

import (
	"encoding/binary"

	"github.com/swtpm-go/swtpm/internal/handover"
)

// resume replies to the request that the previous process has received and not replied
// to, if any. It is not known whether it was executed. The part of it that is
// still to arrive is dropped.
func (c *serverConn) resume() {
	st := c.Handover.Record.Unfinished()
	switch {
	case st.Broken:
		c.end(errHalf)
	case st.Taken == 0:
		c.idle()
	default:
		c.buf, c.fd = c.s.take(), -1
		c.rest.head, c.rest.received = st.Head, st.Taken
		c.awaitInterrupted()
	}
}

// awaitInterrupted waits for the missing part of the request, or replies.
func (c *serverConn) awaitInterrupted() {
	if left := need(c.rest.head) - c.rest.received; left > 0 {
		c.receive(interrupted, c.buf[:min(len(c.buf), left)], c.s.opt.waits.body)
		return
	}
	code := codeOf(c.rest.head)
	if code == Init && c.s.opt.Postponed != nil && c.s.opt.Postponed() {
		c.n = copy(c.buf, c.rest.head[:need(c.rest.head)])
		c.rest = rest{}
		c.handle()
		return
	}
	row := Find(code)
	c.s.opt.Log.Infof("control client: %s interrupted by a restart; answered with TPM_FAIL", row)
	c.reply(row.failure(binary.BigEndian))
}

// dropInterrupted drops bytes of the request.
func (c *serverConn) dropInterrupted(n int, err error) {
	if err != nil {
		c.end(err)
		return
	}
	r := &c.rest
	r.head = append(r.head, c.buf[:min(n, handover.HeadSize-len(r.head))]...)
	r.received += n
	c.awaitInterrupted()
}
