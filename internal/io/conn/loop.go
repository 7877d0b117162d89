package conn

import (
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/handover"
)

// shortWait is how long no client is accepted after descriptors or memory ran out.
const shortWait = 50 * time.Millisecond

// Quiet is called quietWait after the last of at least burst events.
const (
	burst     = 100
	quietWait = 5 * time.Second
)

// Run serves clients until Close is called and the last of them has left.
func (s *Server) Run() {
	answered := false // commands that were sent before the server began to close
	for {
		s.runPosted()
		if s.closing {
			s.closeUnused(answered)
			if len(s.conns) == 0 && s.finish() {
				return
			}
		}
		s.fill()
		if s.closing && !answered {
			s.set.Wait, s.due, answered = 0, time.Now(), true // the deadlines have not passed
		}
		e := s.opt.Wait(&s.set)
		s.dispatch(e)
		if e.Late {
			s.expire()
			s.callQuiet()
		}
	}
}

// finish ends the loop, unless calls are left to make.
func (s *Server) finish() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.posted) > 0 {
		return false
	}
	s.done = true
	s.set.Close()
	_ = unix.Close(s.wake)
	close(s.ended)
	return true
}

// runPosted calls the functions that Post has passed.
func (s *Server) runPosted() {
	for {
		s.mu.Lock()
		list := s.posted
		s.posted, s.spare = s.spare[:0], nil
		s.mu.Unlock()
		for i, f := range list {
			f()
			list[i] = nil
		}
		s.mu.Lock()
		s.spare = list
		s.mu.Unlock()
		if len(list) == 0 {
			return
		}
	}
}

// expire reports the deadline to the clients that have sent nothing until then.
func (s *Server) expire() {
	for i, c := range s.at {
		if c == nil || c.ended || s.set.Polls[i].Revents != 0 || c.deadline.IsZero() || c.deadline.After(s.due) {
			continue
		}
		c.deadline = time.Time{}
		c.Handler.Expired()
	}
}

// callQuiet calls Quiet if it is due.
func (s *Server) callQuiet() {
	if !s.quiet.IsZero() && !s.quiet.After(s.due) {
		s.events, s.quiet = 0, time.Time{}
		s.opt.Quiet()
	}
}

// closeUnused closes the clients without an unfinished request or reply. It spares clients whose commands may still
// be answered, unless answered says that this was done. The next process answers those of saved clients.
func (s *Server) closeUnused(answered bool) {
	for _, c := range slices.Clone(s.conns) {
		saved := c.Handover.Record != nil
		unfinished := c.state == Running || c.state == Replying || c.state == Partial && saved
		if !unfinished && (answered || c.state == Partial || saved) {
			s.end(c, false)
		}
	}
}

// fill fills the set with the descriptors and the deadline to wait for.
func (s *Server) fill() {
	s.set.Polls, s.set.Clients, s.at = s.set.Polls[:0], s.set.Clients[:0], s.at[:0]
	s.set.Wait, s.set.Room = -1, 0
	s.watch(nil, s.wake, unix.POLLIN)
	s.watchOthers()
	next := s.runTimers()
	earlier := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if s.listen != nil && !s.closing {
		earlier(s.watchListener())
	}
	if s.events >= burst && s.opt.Quiet != nil {
		if s.quiet.IsZero() {
			s.quiet = time.Now().Add(quietWait)
		}
		earlier(s.quiet)
	}
	for _, c := range s.conns {
		earlier(c.deadline)
		if c.Events != 0 {
			s.watch(c, c.FD, c.Events)
		}
	}
	if s.due = next; !next.IsZero() {
		s.set.Wait = max(0, time.Until(next))
	}
	s.set.Polls, s.set.Clients = slices.Grow(s.set.Polls, s.set.Room), slices.Grow(s.set.Clients, s.set.Room)
}

// watchListener adds the listener to the set. If no client can be accepted now, it returns when that may have
// changed instead.
func (s *Server) watchListener() (later time.Time) {
	now := time.Now()
	switch room := s.opt.MaxClients - len(s.conns); {
	case now.Before(s.pause):
		return s.pause
	case room > 0:
		s.watch(nil, s.listen.Descriptor(), unix.POLLIN)
		s.letAccept(room)
	case s.victim(now) == nil:
		return s.firstUnprotected()
	case now.Before(s.idleUntil):
		return s.idleUntil
	default:
		s.watch(nil, s.listen.Descriptor(), unix.POLLIN)
	}
	return time.Time{}
}

// letAccept allows the engine to accept room clients of the listener, which is the last
// descriptor in the set.
func (s *Server) letAccept(room int) {
	if s.set.Counts == nil {
		return
	}
	e := &s.set.Clients[len(s.set.Clients)-1]
	e.Listens, e.Socket, s.set.Room = 1, s.accepts, room
}

// adopt adds the clients that the engine has accepted.
func (s *Server) adopt() {
	for i := len(s.at); i < len(s.set.Polls); i++ {
		e := &s.set.Clients[i]
		if e.Fresh == 0 { // it has disconnected
			s.at = append(s.at, nil)
			continue
		}
		c := &Conn{
			FD: int(s.set.Polls[i].Fd), Socket: e.Socket, Server: s,
			used: e.Fresh == handover.FreshUsed, last: e.Last, Events: unix.POLLIN,
		}
		s.conns, s.at = append(s.conns, c), append(s.at, c)
		c.Handler = s.opt.New(c, false)
	}
}

// watch adds a descriptor to the set: of client c, or of something else if c is nil.
func (s *Server) watch(c *Conn, fd int, events int16) {
	s.set.Polls = append(s.set.Polls, unix.PollFd{Fd: int32(fd), Events: events})
	var e handover.Entry
	if c != nil {
		e.Last, e.Socket = c.last, c.Socket
		if c.Plain {
			e.Plain = 1
		}
		e.SetRecord(c.Handover.Record)
	}
	s.set.Clients = append(s.set.Clients, e)
	s.at = append(s.at, c)
}

// dispatch passes events to the handlers.
func (s *Server) dispatch(e handover.Event) {
	s.adopt()
	for i, c := range s.at { // clients that the engine has answered
		if c != nil && s.set.Clients[i].Last > c.last {
			c.last, c.used = s.set.Clients[i].Last, true
		}
	}
	if e.Kind != handover.EventReady {
		if c := s.at[e.At]; c != nil {
			c.Handler.Serve(e)
		}
	}
	others := len(s.watches)
	s.callWatches()
	for i, c := range s.at {
		r := s.set.Polls[i].Revents
		if r == 0 {
			continue
		}
		s.countEvent(i, e)
		switch {
		case c != nil:
			if !c.ended && s.set.Clients[i].Plain == 0 {
				c.Handler.Ready(r&s.set.Polls[i].Events != 0)
			}
		case i == 0:
			var b [8]byte
			_, _ = unix.Read(s.wake, b[:])
		case i <= others: // see callWatches
		default:
			s.accept()
		}
	}
}

// countEvent counts the event of descriptor i if Go handles it, and postpones Quiet. A plain client's command that
// the engine has answered does not count. Nor does a wake-up: a deadline of others may cause one each second.
func (s *Server) countEvent(i int, e handover.Event) {
	if i > 0 && (s.set.Clients[i].Plain == 0 || e.Kind != handover.EventReady && i == e.At) {
		s.events++
		s.quiet = time.Time{}
	}
}

// accept accepts one client, and makes room for it if that is necessary.
func (s *Server) accept() {
	s.mu.Lock()
	shut := s.shut
	s.mu.Unlock()
	if shut { // clients that wait are left to the next process
		return
	}
	var victim *Conn
	if now := time.Now(); len(s.conns) >= s.opt.MaxClients {
		if victim = s.left(); victim == nil {
			victim = s.victim(now)
			if victim == nil || victim.used && !s.idle(victim, now) {
				return
			}
		}
	}
	fd, err := s.listen.TryAccept()
	switch err {
	case nil:
	case unix.EAGAIN, unix.EINTR, unix.ECONNABORTED:
		return
	case unix.EINVAL, unix.EBADF:
		s.listen = nil // it is closed
		return
	default: // no descriptors or memory, or a policy refuses: the client still waits, so the next wait would not wait
		s.pause = time.Now().Add(shortWait)
		return
	}
	if victim != nil {
		s.end(victim, true)
	}
	h := Handover{}
	if s.opt.Save != nil {
		h = s.opt.Save(fd, false)
	}
	s.add(fd, h, false, false)
}

// left returns a client that has disconnected, which the loop has not noticed yet; nil for none.
func (s *Server) left() *Conn {
	for _, c := range s.conns {
		if c.Socket != handover.NoSocket && c.state == Idle && !c.attached && atEnd(c.FD) {
			return c
		}
	}
	return nil
}

// victim returns the client to evict when another one waits; nil for none.
func (s *Server) victim(now time.Time) (v *Conn) {
	for _, c := range s.conns {
		if c.evictable(now) && (v == nil || c.evictedBefore(v)) {
			v = c
		}
	}
	return v
}

// idle reports whether c has had no reply for idleTime. Without this check, each new client would
// evict one that works while clients that do not read are protected. Replies are counted, not
// timed, so idle compares the count with the count from idleTime ago. If that is too early to
// decide, it stores the count and the time of the next comparison.
func (s *Server) idle(c *Conn, now time.Time) bool {
	if c.last > s.idleTick || s.idleUntil.IsZero() {
		s.idleTick, s.idleUntil = s.set.Tick, now.Add(idleTime)
	}
	return !now.Before(s.idleUntil)
}

// firstUnprotected returns the earliest time at which a client that is busy now may be evicted.
func (s *Server) firstUnprotected() (t time.Time) {
	for _, c := range s.conns {
		if c.attached || c.state == Running {
			continue
		}
		if end := c.since.Add(protected); t.IsZero() || end.Before(t) {
			t = end
		}
	}
	return t
}

// add begins to serve a client.
func (s *Server) add(fd int, h Handover, attached, resumed bool) {
	s.set.Tick++
	c := &Conn{
		FD: fd, Socket: s.socketOf(fd), Handover: h, Server: s, attached: attached,
		used: h.Record.Used(), last: s.set.Tick, Events: unix.POLLIN,
	}
	s.conns = append(s.conns, c)
	atomic.AddUint64(&s.counts.Clients, 1)
	atomic.AddUint64(&s.counts.Connections, 1)
	s.changed()
	c.Handler = s.opt.New(c, resumed)
}

// changed reports that a client has connected or disconnected.
func (s *Server) changed() {
	if s.opt.Changed != nil {
		s.opt.Changed()
	}
}

// end closes a connection. The next process continues a saved one unless forget is set.
func (s *Server) end(c *Conn, forget bool) {
	if c.ended {
		return
	}
	c.ended = true
	if forget && c.Handover.Forget != nil {
		c.Handover.Forget()
	}
	if c.Handler != nil {
		c.Handler.Release()
	}
	s.conns = slices.DeleteFunc(s.conns, func(o *Conn) bool { return o == c })
	atomic.AddUint64(&s.counts.Clients, ^uint64(0))
	s.set.Forget(c.FD)
	s.mu.Lock()
	if s.only == c.FD {
		s.only = -1
	}
	_ = unix.Close(c.FD)
	s.mu.Unlock()
	s.changed()
	if s.isLast(c) && s.opt.LastLeft != nil {
		s.opt.LastLeft()
	}
}

// isLast reports whether c, which disconnects, was the last client, or the last one that had
// a reply.
func (s *Server) isLast(c *Conn) bool {
	if s.closing {
		return false
	}
	for _, o := range s.conns {
		if o.used {
			return false
		}
	}
	return c.used || len(s.conns) == 0
}
