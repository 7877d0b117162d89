package ctrl

import (
	"slices"

	"github.com/swtpm-go/swtpm/internal/io/conn"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// A client whose request waits for the engine, or runs there, is not evicted, and a command
// may take minutes. If all clients did so, none could connect and send CANCEL_TPM_CMD. So
// one client fewer than MaxClients uses the engine at a time. The requests of others start
// later, and until then a client that connects may evict theirs.

// engineCall is the use of the engine by a request.
type engineCall struct {
	client *serverConn
	do     func() ([]byte, error)
	next   func([]byte, error)
}

// engine calls do on the thread of the engine and then, back on this one, next with its
// results.
func (c *serverConn) engine(do func() ([]byte, error), next func([]byte, error)) {
	call := engineCall{c, do, next}
	if c.s.running >= max(1, c.s.opt.MaxClients-1) {
		c.Become(conn.Idle, 0, 0)
		c.s.waiting = append(c.s.waiting, call)
		return
	}
	c.s.start(call)
}

// start starts a call that may use the engine now.
func (s *Server) start(call engineCall) {
	s.running++
	call.client.Become(conn.Running, 0, 0)
	ok := s.opt.Engine(func() {
		reply, err := call.do()
		s.Post(func() { s.finished(call, reply, err) })
	})
	if !ok {
		s.running--
		call.next(nil, tpm.Fail) // the process ends
	}
}

// leaveEngine starts a request that waits for the engine, and continues with the one that was
// executed. Server.finished refers to it.
func (s *Server) leaveEngine(call engineCall, reply []byte, err error) {
	s.running--
	if len(s.waiting) > 0 {
		first := s.waiting[0]
		s.waiting = slices.Delete(s.waiting, 0, 1)
		s.start(first)
	}
	call.next(reply, err)
}

// dropWaiting removes the request of a client that leaves.
func (s *Server) dropWaiting(c *serverConn) {
	s.waiting = slices.DeleteFunc(s.waiting, func(call engineCall) bool { return call.client == c })
}
