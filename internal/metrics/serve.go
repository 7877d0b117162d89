package metrics

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// askTime is how long a client may take to send an HTTP request.
	askTime = time.Second

	// takeTime is how long a client may take to read the text.
	takeTime = 5 * time.Second

	// places is the number of clients that are served at once. The next client waits until one
	// is disconnected; a slow one is disconnected after askTime and takeTime.
	places = 8

	// maxRequest is the number of bytes of a request that are read.
	maxRequest = 8192

	// tickTime is the time between two checks of the clients. Without a client there are none.
	tickTime = 50 * time.Millisecond
)

// Loop waits for descriptors and deadlines on a thread of its own.
type Loop interface {
	// Watch calls ready on the loop's thread each time fd can be read, until ready
	// returns false.
	Watch(fd int, ready func() bool) bool
	// After calls f on the loop's thread once d has passed.
	After(d time.Duration, f func()) bool
}

// Listener accepts clients without waiting for them.
type Listener interface {
	// Descriptor is the one to wait for.
	Descriptor() int
	// TryAccept returns a connected descriptor. Its error is unix.EAGAIN if no client waits, and
	// unix.EBADF if the listener is closed.
	TryAccept() (fd int, err error)
}

// server serves the clients of a listener. Only the thread of loop uses it.
type server struct {
	loop     Loop
	listener Listener
	text     func() []byte

	clients   []*client
	listening bool // loop waits for the listener
	ticking   bool // loop will call tick
}

// client is a connection. The loop waits for the request; later the server tries to send the rest
// of the reply.
type client struct {
	fd       int
	request  []byte
	reply    []byte    // the rest; nil before it begins
	deadline time.Time // of the request, and then of the reply
	watched  bool      // the loop waits for fd, which must not be closed yet
	ended    bool      // the connection is shut down
}

// Serve makes loop send the text to each client of l, a few at once, until l is closed. A client
// that sends "GET ..." gets an HTTP response; other clients get the text alone, after they closed
// their side or sent nothing for a second. No client delays the loop. text must not wait.
func Serve(loop Loop, l Listener, text func() []byte) {
	s := &server{loop: loop, listener: l, text: text, listening: true}
	loop.Watch(l.Descriptor(), s.accept)
}

// accept accepts a client. It returns false if the loop must not wait for the listener: it is closed,
// no place is free, or the process is out of descriptors or memory.
func (s *server) accept() bool {
	fd, err := s.listener.TryAccept()
	switch err {
	case nil:
		s.add(fd)
		s.listening = len(s.clients) < places
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		s.listening = false
	case unix.EINVAL, unix.EBADF:
		return false
	}
	s.tickLater()
	return s.listening
}

func (s *server) add(fd int) {
	if unix.SetNonblock(fd, true) != nil {
		_ = unix.Close(fd)
		return
	}
	c := &client{fd: fd, deadline: time.Now().Add(askTime), watched: true}
	s.clients = append(s.clients, c)
	s.loop.Watch(fd, func() bool {
		if c.watched = !c.ended && c.reply == nil && c.read(); c.watched {
			return true
		}
		switch {
		case c.ended:
			s.end(c)
		case c.reply == nil:
			s.answer(c)
		}
		return false
	})
}

// read reads a part of the request, and reports whether more may come.
func (c *client) read() bool {
	part := make([]byte, 1024)
	n, err := unix.Read(c.fd, part)
	if err == unix.EAGAIN || err == unix.EINTR {
		return true
	}
	c.request = append(c.request, part[:max(n, 0)]...)
	return n > 0 && len(c.request) < maxRequest && !bytes.Contains(c.request, []byte("\r\n\r\n"))
}

// answer begins the reply to c.
func (s *server) answer(c *client) {
	c.reply = s.text()
	if bytes.HasPrefix(c.request, []byte("GET ")) {
		head := fmt.Sprintf("HTTP/1.0 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", ContentType, len(c.reply))
		c.reply = append([]byte(head), c.reply...)
	}
	c.deadline = time.Now().Add(takeTime)
	s.write(c)
}

// write sends what c takes now, and disconnects c after the last byte, an error or the deadline.
func (s *server) write(c *client) {
	for len(c.reply) > 0 {
		n, err := unix.Write(c.fd, c.reply)
		c.reply = c.reply[max(n, 0):]
		switch {
		case err == unix.EAGAIN && time.Now().Before(c.deadline):
			return
		case err != nil && err != unix.EINTR:
			c.reply = c.reply[:0]
		}
	}
	s.end(c)
}

// end disconnects c. While the loop waits for the descriptor, it is only shut down: then the loop
// calls the function of add, which closes it.
func (s *server) end(c *client) {
	if c.watched {
		c.ended = true
		_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
		return
	}
	_ = unix.Close(c.fd)
	s.clients = slices.DeleteFunc(s.clients, func(o *client) bool { return o == c })
}

// tick continues with the clients that are late, and waits for new ones if a place is free.
func (s *server) tick() {
	s.ticking = false
	for _, c := range slices.Clone(s.clients) {
		switch {
		case c.ended:
		case c.reply != nil:
			s.write(c)
		case !time.Now().Before(c.deadline):
			s.answer(c)
		}
	}
	if !s.listening && len(s.clients) < places {
		s.listening = true
		s.loop.Watch(s.listener.Descriptor(), s.accept)
	}
	s.tickLater()
}

// tickLater makes the loop call tick if there is something to check.
func (s *server) tickLater() {
	if !s.ticking && (len(s.clients) > 0 || !s.listening) {
		s.ticking = true
		s.loop.After(tickTime, s.tick)
	}
}
