// Package clients decides who may sit at a channel. It is the same for data and
// control: a limited number of places, and a rule for whom to send away.
package clients

import (
	"sync"
	"time"
)

// grace is how long a client that was sent away may take to leave before
// another one is sent away in its stead.
const grace = time.Second

// Room has a place for each client of one channel.
//
// When all places are taken, the client that has never been answered and came
// first is sent away; those that have been answered keep their places and new
// ones wait. Silent connections thus keep nobody out.
type Room struct {
	// Changed is called when a client has come or gone; nil if nobody wants to
	// know. It is set before the first client comes, and must not wait.
	Changed func()

	mu     sync.Mutex
	change sync.Cond
	max    int
	grace  time.Duration // for clients that were sent away
	here   []*Client     // in the order they came
	came   uint64        // how many have entered so far
	coming int           // those that wait for a place
	closed bool
}

// Client is one client's place.
type Client struct {
	evict func()    // makes the client leave soon; nil if it must not be made to
	used  bool      // has been answered
	going time.Time // when evict was called; zero if it was not
}

// NewRoom returns a room with the given number of places.
func NewRoom(places int) *Room {
	r := &Room{max: places, grace: grace}
	r.change.L = &r.mu
	return r
}

// Wait waits until there is a free place; false means that the room is closed.
func (r *Room) Wait() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.coming++
	defer func() { r.coming-- }()
	for !r.closed && len(r.here) >= r.max {
		r.sendAway()
		r.change.Wait()
	}
	return !r.closed
}

// sendAway sends away one client for each place that is needed. One that was
// sent away counts as a free place for a while; after that it may hang as it
// likes, in a command of a minute say, and does not protect the others.
func (r *Room) sendAway() {
	needed := len(r.here) + r.coming - r.max
	for _, c := range r.here {
		if !c.going.IsZero() && time.Since(c.going) < r.grace {
			needed--
		}
	}
	for _, c := range r.here {
		if needed <= 0 {
			return
		}
		if c.used || c.evict == nil || !c.going.IsZero() {
			continue
		}
		needed--
		c.going = time.Now()
		c.evict()
		time.AfterFunc(r.grace, r.look)
	}
}

// look has those that wait look again.
func (r *Room) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.change.Broadcast()
}

// Enter gives a client a place; nil means that the room is closed. evict is
// called, once at most, to send the client away.
func (r *Room) Enter(evict func()) *Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	c := &Client{evict: evict}
	r.here = append(r.here, c)
	r.came++
	r.changed()
	return c
}

func (r *Room) changed() {
	if r.Changed != nil {
		r.Changed()
	}
}

// Use notes that c has been answered.
func (r *Room) Use(c *Client) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.used = true
	r.change.Broadcast()
}

// Leave frees c's place. lost says that the channel has lost its clients: c was
// the last one, or the last that had been answered. A closed room loses nobody.
func (r *Room) Leave(c *Client) (lost bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	others := make([]*Client, 0, len(r.here))
	users := 0
	for _, o := range r.here {
		if o == c {
			continue
		}
		others = append(others, o)
		if o.used {
			users++
		}
	}
	r.here = others
	r.changed()
	r.change.Broadcast()
	return !r.closed && (len(others) == 0 || c.used && users == 0)
}

// Len is the number of clients.
func (r *Room) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.here)
}

// Came is how many clients have entered so far.
func (r *Room) Came() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.came
}

// Close lets nobody in any more.
func (r *Room) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.change.Broadcast()
}
