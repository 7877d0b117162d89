package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"
)

// replyTimeout is how long a client waits for a reply: longer than the broker waits for the
// store.
const replyTimeout = 10 * time.Second

// Conn is the connection to the broker: a Unix socket.
type Conn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// Client is one TPM's side of a connection. It is not safe for concurrent use.
//
// The errors of its methods wrap an error of this package, or fs.ErrNotExist. After an error of
// the connection itself, which wraps ErrUnreachable or, for Put, Release and Remove, ErrUnknown,
// the client must be closed and the state resumed through a new one.
type Client struct {
	conn    Conn
	in, out []byte
	broken  bool

	// Timeout is how long a request waits for its reply; the constant if it is 0.
	Timeout time.Duration
}

// NewClient opens a state through conn, which the client owns from now on. With "" it opens none:
// then only List, Describe and Examine are possible, and the broker disconnects after a few seconds.
func NewClient(conn Conn, state string) (c *Client, limits Limits, err error) {
	c = &Client{conn: conn}
	b := AppendString(binary.BigEndian.AppendUint32(c.begin(Open), Version), state)
	body, err := c.ask(b)
	if err != nil {
		_ = conn.Close()
		return nil, Limits{}, err
	}
	limits = Limits{body.Uint32(), body.Uint32()}
	return c, limits, body.Done()
}

// Broken reports whether the connection failed, so that the client can no longer be used.
func (c *Client) Broken() bool { return c.broken }

// Close ends the connection. The broker reserves the state for this host for some time, so
// that it can be resumed.
func (c *Client) Close() error { return c.conn.Close() }

func (c *Client) begin(v Verb) []byte { return Begin(c.out, byte(v)) }

// ask sends a request and returns the body of the reply if its status is OK.
func (c *Client) ask(frame []byte) (*Body, error) {
	c.out = End(frame)
	lost := ErrUnreachable
	if v := Verb(frame[4]); v == Put || v == Release || v == Remove {
		lost = ErrUnknown
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = replyTimeout
	}
	if err := c.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		c.broken = true
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	// A broker that refuses a client replies and disconnects before the first request.
	if n, err := c.conn.Write(c.out); err != nil && (Verb(frame[4]) != Open || !errors.Is(err, syscall.EPIPE)) {
		c.broken = true
		if n == 0 { // the broker has got nothing of the request
			lost = ErrUnreachable
		}
		return nil, fmt.Errorf("%w: %w", lost, err)
	}
	first, body, buf, err := ReadFrame(c.conn, c.in)
	if err != nil {
		c.broken = true
		return nil, fmt.Errorf("%w: %w", lost, err)
	}
	c.in = buf
	if s := Status(first); s != OK {
		text := NewBody(body)
		return nil, s.err(text.String())
	}
	return NewBody(body), nil
}

// err returns the error for a status with the text of the reply.
func (s Status) err(text string) error {
	if s == StatusNotFound {
		return fmt.Errorf("%s: %w", text, fs.ErrNotExist)
	}
	return fmt.Errorf("%w: %s", s.kind(), text)
}

// kind returns the error that a status stands for, ErrInvalid for an unknown one.
func (s Status) kind() error {
	kinds := [...]error{
		StatusNotFound: fs.ErrNotExist, StatusOwned: ErrOwned, StatusFenced: ErrFenced, StatusUnreachable: ErrUnreachable,
		StatusUnknown: ErrUnknown, StatusQuota: ErrQuota, StatusDenied: ErrDenied, StatusDamaged: ErrDamaged,
		StatusTooLarge: ErrTooLarge, StatusHandover: ErrHandover,
	}
	if int(s) >= len(kinds) || kinds[s] == nil {
		return ErrInvalid
	}
	return kinds[s]
}

// Acquire makes this TPM the owner of the state, which need not exist. With handover it
// fails with ErrHandover unless the last owner released the state with that sum.
func (c *Client) Acquire(handover *[32]byte) (Grant, error) {
	flags, sum := uint8(0), [32]byte{}
	if handover != nil {
		flags, sum = CompareHandover, *handover
	}
	return c.grant(append(append(c.begin(Acquire), flags), sum[:]...))
}

// Resume continues the ownership of the state with the token and the revision of the last
// write. The grant has another token if the broker had to acquire the state again.
func (c *Client) Resume(token, revision uint64) (Grant, error) {
	return c.grant(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(c.begin(Resume), token), revision))
}

func (c *Client) grant(frame []byte) (Grant, error) {
	body, err := c.ask(frame)
	if err != nil {
		return Grant{}, err
	}
	g := body.Grant()
	return g, body.Done()
}

// Renew returns the present deadline in nanoseconds of CLOCK_BOOTTIME.
func (c *Client) Renew() (deadline uint64, err error) {
	body, err := c.ask(c.begin(Renew))
	if err != nil {
		return 0, err
	}
	deadline = body.Uint64()
	return deadline, body.Done()
}

// Get returns an item, which the caller owns.
func (c *Client) Get(item string) ([]byte, error) {
	body, err := c.ask(AppendString(c.begin(Get), item))
	if err != nil {
		return nil, err
	}
	blob := append([]byte(nil), body.Bytes()...)
	return blob, body.Done()
}

// Put replaces or creates the items in put and removes those in remove, all in one step, as
// this generation, and returns the revision. When it returns nil, the change is durable. After
// ErrUnknown it may have been made.
func (c *Client) Put(generation uint64, put []Item, remove []string) (revision uint64, err error) {
	b := binary.BigEndian.AppendUint64(c.begin(Put), generation)
	b = AppendItems(b, put)
	b = binary.BigEndian.AppendUint16(b, uint16(len(remove)))
	for _, name := range remove {
		b = AppendString(b, name)
	}
	body, err := c.ask(b)
	if err != nil {
		return 0, err
	}
	revision = body.Uint64()
	return revision, body.Done()
}

// AppendItems appends a 16-bit count and the items.
func AppendItems(b []byte, items []Item) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(items)))
	for _, i := range items {
		b = AppendBytes(AppendString(b, i.Name), i.Blob)
	}
	return b
}

// Release ends the ownership and leaves handover for the next owner.
func (c *Client) Release(handover [32]byte) error {
	return c.done(append(c.begin(Release), handover[:]...))
}

// Remove deletes the state, which this client must own.
func (c *Client) Remove() error { return c.done(c.begin(Remove)) }

func (c *Client) done(frame []byte) error {
	body, err := c.ask(frame)
	if err != nil {
		return err
	}
	return body.Done()
}

// List returns the states that this user may use.
func (c *Client) List() ([]Entry, error) {
	body, err := c.ask(c.begin(List))
	if err != nil {
		return nil, err
	}
	all := body.entries()
	return all, body.Done()
}

func (b *Body) entries() (all []Entry) {
	for n := b.Uint32(); n > 0 && !b.bad; n-- {
		all = append(all, b.Entry())
	}
	return all
}

// Describe returns the name of this host, as Entry.Owner contains it, and the states with these
// names that exist and that this user may see. Its error is ErrInvalid if the broker is older than
// this verb.
func (c *Client) Describe(names []string) (host string, all []Entry, err error) {
	for len(names) > 0 {
		some := names[:min(len(names), MaxDescribed)]
		names = names[len(some):]
		b := binary.BigEndian.AppendUint16(c.begin(Describe), uint16(len(some)))
		for _, name := range some {
			b = AppendString(b, name)
		}
		body, err := c.ask(b)
		if err != nil {
			return "", nil, err
		}
		host = body.String()
		all = append(all, body.entries()...)
		if err := body.Done(); err != nil {
			return "", nil, err
		}
	}
	return host, all, nil
}

// Generations returns the numbers of the stored generations, in the order in which they were
// written.
func (c *Client) Generations() ([]uint64, error) {
	body, err := c.ask(c.begin(Generations))
	if err != nil {
		return nil, err
	}
	var all []uint64
	for n := body.Uint32(); n > 0 && !body.bad; n-- {
		all = append(all, body.Uint64())
	}
	return all, body.Done()
}

// Generation returns the items of a stored generation, which the caller owns.
func (c *Client) Generation(n uint64) ([]Item, error) {
	body, err := c.ask(binary.BigEndian.AppendUint64(c.begin(Generation), n))
	if err != nil {
		return nil, err
	}
	items := body.Items()
	for i := range items {
		items[i].Blob = append([]byte(nil), items[i].Blob...)
	}
	return items, body.Done()
}

// Stat returns the description of the state and the sizes of its items in bytes, without the items.
func (c *Client) Stat() (Entry, map[string]uint32, error) {
	body, err := c.ask(c.begin(Stat))
	if err != nil {
		return Entry{}, nil, err
	}
	e, sizes := body.Entry(), map[string]uint32{}
	for n := body.Uint16(); n > 0 && !body.bad; n-- {
		name := body.String()
		sizes[name] = body.Uint32()
	}
	return e, sizes, body.Done()
}

// Examine returns the problems of the store. Its error is ErrInvalid if the broker is older than
// this verb.
func (c *Client) Examine() ([]Finding, error) {
	body, err := c.ask(c.begin(Examine))
	if err != nil {
		return nil, err
	}
	var all []Finding
	for n := body.Uint16(); n > 0 && !body.bad; n-- {
		all = append(all, Finding{body.Uint8() != 0, body.String(), body.String()})
	}
	return all, body.Done()
}
