package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/internal/store"
)

const (
	// maxItem is the size in bytes of the largest item: etcd takes 1.5 MiB in one request.
	maxItem = 1<<20 + 4<<10

	// maxSnapshot is the size in bytes of the largest item of which generations are stored,
	// because a request to the store then contains the item twice.
	maxSnapshot = 512 << 10

	// maxExpire is the number of generations that one change removes at most. There may be more
	// to remove if the configuration was changed, but etcd accepts only 128 operations in a
	// transaction by default.
	maxExpire = 64

	// maxOpen is the size in bytes of the largest frame before a state is open.
	maxOpen = 256

	// smallFrame is the size in bytes of the largest frame that is not a large request (see
	// maxLarge), and of the largest buffer that is kept between two requests.
	smallFrame = 64 << 10
)

// client is the connection of one TPM, or of an observer.
type client struct {
	b      *Broker
	conn   *net.UnixConn
	stream stream // of conn
	cred   Credentials
	state  *state // nil before Open, and for an observer
	in     []byte
	out    []byte

	observer bool // Open named no state
}

// Serve accepts connections until ctx ends or l is closed. Before it returns, it waits for the
// running requests.
func (b *Broker) Serve(ctx context.Context, l *net.UnixListener) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			b.o.Log.Errorf("accept: %v", err)
			time.Sleep(100 * time.Millisecond) // no descriptors are left
			continue
		}
		cred, err := credentials(conn)
		if err != nil {
			b.o.Log.Errorf("a client without credentials was disconnected: %v", err)
			_ = conn.Close()
			continue
		}
		b.start(ctx, &clients, conn, cred)
	}
}

// start admits or refuses a client with these credentials, and serves it in the background.
func (b *Broker) start(ctx context.Context, clients *sync.WaitGroup, conn *net.UnixConn, cred Credentials) {
	if err := b.admit(cred); err != nil {
		refuse(conn, err)
		return
	}
	clients.Go(func() {
		defer b.limits.leave(cred)
		b.serve(ctx, conn, cred)
	})
}

// refuse replies to the request that a client is about to make, and disconnects it.
func refuse(conn *net.UnixConn, err error) {
	defer conn.Close()
	x := &client{}
	x.fail(err)
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_, _ = unix.SendmsgN(int(fd), store.End(x.out), nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		})
	}
}

// serve serves a client until it disconnects.
func (b *Broker) serve(ctx context.Context, conn *net.UnixConn, cred Credentials) {
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		b.o.Log.Errorf("client with process %d: %v", cred.PID, err)
		return
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	x := &client{b: b, conn: conn, stream: stream{raw}, cred: cred}
	defer x.leave()
	if x.readUntil(ctx, time.Now().Add(b.o.RequestTimeout)) != nil { // until Open
		return
	}
	for {
		err := x.one(ctx)
		switch {
		case err == nil:
			continue
		case errors.Is(err, store.ErrInvalid):
			x.fail(err)
			_ = x.send()
		case errors.Is(err, os.ErrDeadlineExceeded) && x.state == nil:
			// The administrator need not know about a client without a state.
		case !errors.Is(err, io.EOF) && ctx.Err() == nil:
			b.complain(cred.UID, "client with process %d: %v", cred.PID, err)
		}
		return
	}
}

// one reads one request, runs it and replies. Its error ends the connection.
func (x *client) one(ctx context.Context) error {
	limit := uint32(store.MaxFrame)
	switch {
	case x.observer:
		limit = smallFrame
	case x.state == nil:
		limit = maxOpen
	}
	n, err := store.ReadSize(x.stream, limit)
	if err != nil {
		return err
	}
	large := n > smallFrame
	if large && !x.b.limits.large(ctx) {
		return ctx.Err()
	}
	if large {
		defer x.b.limits.done()
	}
	if x.state != nil {
		// A client must not occupy memory without sending a request.
		if err := x.readUntil(ctx, time.Now().Add(x.b.o.RequestTimeout)); err != nil {
			return err
		}
	}
	first, body, buf, err := store.ReadRest(x.stream, n, x.in)
	x.in = buf
	if err != nil {
		return err
	}
	x.out = store.Begin(x.out, byte(store.OK))
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), x.b.o.Wait)
	err = x.handle(wait, store.Verb(first), store.NewBody(body))
	cancel()
	if err != nil {
		x.fail(err)
	}
	if x.send() != nil {
		return io.EOF // the client does not read its replies
	}
	if cap(x.in) > smallFrame {
		x.in = nil
	}
	if cap(x.out) > smallFrame {
		x.out = nil
	}
	if x.state == nil {
		return nil
	}
	return x.readUntil(ctx, time.Time{})
}

// readUntil sets the read deadline, unless the end of ctx has set it.
func (x *client) readUntil(ctx context.Context, t time.Time) error {
	err := x.conn.SetReadDeadline(t)
	return errors.Join(err, ctx.Err())
}

// credentials identifies the process that connected.
func credentials(conn *net.UnixConn) (Credentials, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Credentials{}, err
	}
	var u *unix.Ucred
	var failed error
	unit := ""
	err = raw.Control(func(fd uintptr) {
		if u, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); failed == nil {
			unit = unitOfPeer(int(fd), int(u.Pid))
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return Credentials{}, err
	}
	return Credentials{PID: int(u.Pid), UID: u.Uid, GID: u.Gid, Unit: unit}, nil
}

// send writes the reply. A client that does not read it is disconnected.
func (x *client) send() error {
	_ = x.conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, err := x.stream.Write(store.End(x.out))
	return err
}

// leave ends the connection. The TPM may connect again within the time to live of the lease.
func (x *client) leave() {
	if x.state == nil {
		return
	}
	x.state.mu.Lock()
	defer x.state.mu.Unlock()
	if x.state.client == x {
		x.b.awaitReconnect(x.state, x.b.o.TTL)
	}
	x.b.drop(x.state)
}

// fail makes the reply an error.
func (x *client) fail(err error) {
	status, text := x.explain(err)
	if len(text) > 1000 {
		text = text[:1000]
	}
	x.out = store.AppendString(store.Begin(x.out, byte(status)), text)
}

// errRequest means that a request is malformed or not possible now.
var errRequest = errors.New("invalid request")

// errDenied means that the client may not use the state.
var errDenied = errors.New("access denied")

// errHandover means that the last owner released the state with another handover sum than the TPM
// expects.
var errHandover = errors.New("the last owner released another state")

// explain returns the status and the text for err.
func (x *client) explain(err error) (store.Status, string) {
	name := ""
	if x.state != nil {
		name = x.state.name
	}
	var owned *driver.OwnedError
	text := err.Error()
	if errors.As(err, &owned) {
		return store.StatusOwned, ownedText(name, owned)
	}
	for _, c := range []struct {
		err    error
		status store.Status
	}{
		{errRequest, store.StatusInvalid}, {store.ErrInvalid, store.StatusInvalid},
		{errDenied, store.StatusDenied}, {errHandover, store.StatusHandover}, {fs.ErrNotExist, store.StatusNotFound},
		{driver.ErrRestored, store.StatusUnreachable}, {driver.ErrSplit, store.StatusUnreachable},
		{driver.ErrFenced, store.StatusFenced}, {driver.ErrConflict, store.StatusFenced}, {driver.ErrLease, store.StatusUnreachable},
		{driver.ErrUnreachable, store.StatusUnreachable}, {driver.ErrQuorum, store.StatusUnreachable}, {driver.ErrUnknown, store.StatusUnknown},
		{driver.ErrQuota, store.StatusQuota}, {driver.ErrDenied, store.StatusUnreachable}, {driver.ErrDamaged, store.StatusDamaged},
		{driver.ErrTooLarge, store.StatusTooLarge}, {driver.ErrStored, store.StatusDamaged},
	} {
		if errors.Is(err, c.err) {
			return c.status, withoutStatus(text, c.err)
		}
	}
	return store.StatusUnreachable, text
}

// withoutStatus returns the text of an error without the words that the client adds for its status.
func withoutStatus(text string, kind error) string {
	text = strings.Replace(text, driver.ErrUnreachable.Error()+": ", "", 1)
	if kind == driver.ErrDamaged || kind == errDenied {
		text = strings.Replace(text, kind.Error()+": ", "", 1)
	}
	return text
}

// handle runs one request and appends the body of the reply to x.out.
func (x *client) handle(ctx context.Context, v store.Verb, r *store.Body) error {
	if v == store.Open {
		return x.open(r)
	}
	switch {
	case x.observer && v != store.List && v != store.Describe && v != store.Examine:
		return fmt.Errorf("%w: Open named no state", errRequest)
	case x.state == nil && !x.observer:
		return fmt.Errorf("%w: the first request must be Open", errRequest)
	}
	handlers := map[store.Verb]func(context.Context, *store.Body) error{
		store.Acquire: x.acquire, store.Resume: x.resume, store.Renew: x.renew, store.Get: x.get, store.Put: x.put,
		store.Release: x.release, store.List: x.list, store.Generations: x.generations, store.Generation: x.generation,
		store.Remove: x.remove, store.Stat: x.stat, store.Describe: x.describe,
	}
	if v == store.Examine { // no request of a TPM waits for it
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), examineTime)
		defer cancel()
		return x.examine(ctx, r)
	}
	h := handlers[v]
	if h == nil {
		return fmt.Errorf("%w: unknown verb %d", errRequest, v)
	}
	if x.observer {
		return h(ctx, r)
	}
	x.state.mu.Lock()
	defer x.state.mu.Unlock()
	return h(ctx, r)
}

func (x *client) open(r *store.Body) error {
	version, name := r.Uint32(), r.String()
	if err := r.Done(); err != nil {
		return err
	}
	switch {
	case x.state != nil || x.observer:
		return fmt.Errorf("%w: a second Open", errRequest)
	case version != store.Version:
		return fmt.Errorf("%w: protocol version %d, this broker has version %d", errRequest, version, store.Version)
	case name == "":
		x.observer = true
		return x.opened()
	case !store.ValidName(name):
		return fmt.Errorf("%w: invalid name of a state %q, expected 1 to %d of letters, digits and ._-@+: characters", errRequest, name, store.MaxName)
	case !x.b.o.Allow(x.cred, name):
		return x.refuse(name)
	}
	x.state = x.b.state(name)
	return x.opened()
}

// refuse logs and returns why the client may not use a state.
func (x *client) refuse(name string) error {
	why := "the broker's configuration does not allow it"
	if x.b.o.Refusal != nil {
		why = x.b.o.Refusal(x.cred, name)
	}
	x.b.complain(x.cred.UID, "state %q denied to user %d, process %d: %s", name, x.cred.UID, x.cred.PID, why)
	return fmt.Errorf("%w: state %q: %s", errDenied, name, why)
}

// opened replies with the limits.
func (x *client) opened() error {
	x.out = binary.BigEndian.AppendUint32(x.out, maxItem)
	x.out = binary.BigEndian.AppendUint32(x.out, uint32(x.b.o.GiveUp/time.Second))
	return nil
}
