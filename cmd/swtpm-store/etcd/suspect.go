package etcd

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// suspects are the members that did not answer a request in time. The client library sends
// requests to all members in turn as long as their connections are open. The kernel keeps a
// connection open even if the member is stopped or its disk does not answer.
type suspects struct {
	end    context.Context // of the Store
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex
	all     []string // endpoints that are not used
	looking bool     // a task looks for the endpoint of an address
}

// returnPause is the time between two attempts to use a suspected member again.
const returnPause = 2 * time.Second

// observe is a grpc.UnaryClientInterceptor: it runs each request to a member, and suspects the
// member if that does not answer in time.
func (s *Store) observe(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var p peer.Peer
	begin, one := time.Now(), ctx
	if reads(req) && s.another(ctx) {
		var cancel context.CancelFunc
		one, cancel = context.WithTimeout(ctx, s.times.read)
		defer cancel()
	}
	err := invoke(one, method, req, reply, cc, append(opts, grpc.Peer(&p))...)
	if late := errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded; late && p.Addr != nil && time.Since(begin) >= s.times.read {
		s.suspect(p.Addr)
	}
	return err
}

// another reports whether a read may be cancelled after times.read and sent to another member:
// there is another member, and then more time is left for it than this one has got. Otherwise the
// read gets all the time that is left, because a store may be slow without being unreachable.
func (s *Store) another(ctx context.Context) bool {
	end, ok := ctx.Deadline()
	return len(s.client.Endpoints()) > 1 && (!ok || time.Until(end) > 2*s.times.read)
}

// reads reports whether a request changes nothing, so that it may be sent twice.
func reads(req any) bool {
	switch r := req.(type) {
	case *pb.RangeRequest:
		return true
	case *pb.TxnRequest:
		return len(r.Failure) == 0 && !slices.ContainsFunc(r.Success, func(o *pb.RequestOp) bool { return o.GetRequestRange() == nil })
	}
	return false
}

// suspect leaves out the member with this address until it answers again. If most members do not
// answer, for example two of three, suspect leaves out none of them, because the cause is probably
// elsewhere. It works in the background, because resolving the name of an endpoint may take long.
func (s *Store) suspect(a net.Addr) {
	u := &s.suspects
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(s.options.Endpoints) < 2 || u.looking || u.end.Err() != nil {
		return
	}
	u.looking = true
	u.tasks.Go(func() {
		i := slices.IndexFunc(s.options.Endpoints, func(endpoint string) bool { return is(endpoint, a) })
		u.mu.Lock()
		u.looking = false
		left := i >= 0 && s.leave(s.options.Endpoints[i])
		u.mu.Unlock()
		if left {
			s.await(s.options.Endpoints[i])
		}
	})
}

// leave leaves out an endpoint, and reports whether it did. The caller holds the lock.
func (s *Store) leave(endpoint string) bool {
	u := &s.suspects
	switch {
	case slices.Contains(u.all, endpoint):
		return false
	case len(u.all) >= max((len(s.options.Endpoints)-1)/2, 1):
		u.all = nil
	default:
		u.all = append(u.all, endpoint)
	}
	s.use()
	return len(u.all) > 0
}

// is reports whether the name of the endpoint resolves to this address.
func is(endpoint string, a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	u, err := url.Parse(endpoint)
	if !ok || err != nil {
		return false
	}
	to, err := net.ResolveTCPAddr("tcp", u.Host)
	return err == nil && to.Port == tcp.Port && to.IP.Equal(tcp.IP)
}

// use sets the members that the client library uses. The caller holds the lock.
func (s *Store) use() {
	s.client.SetEndpoints(slices.DeleteFunc(slices.Clone(s.options.Endpoints), func(e string) bool { return slices.Contains(s.suspects.all, e) })...)
}

// await waits until a suspected member answers, and then uses it again.
func (s *Store) await(endpoint string) {
	u := &s.suspects
	for {
		select {
		case <-u.end.Done():
			return
		case <-time.After(returnPause):
		}
		u.mu.Lock()
		gone := !slices.Contains(u.all, endpoint)
		u.mu.Unlock()
		if gone {
			return
		}
		if s.answers(endpoint) {
			u.mu.Lock()
			u.all = slices.DeleteFunc(u.all, func(e string) bool { return e == endpoint })
			s.use()
			u.mu.Unlock()
			return
		}
	}
}

// answers reports whether a member answers a read. A refusal is an answer.
func (s *Store) answers(endpoint string) bool {
	c, err := s.only(endpoint)
	if err != nil {
		return false
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(s.suspects.end, s.times.read)
	defer cancel()
	_, err = c.Get(leading(ctx), s.prefix+"position")
	err = classify(err, driver.ErrUnreachable)
	return err == nil || errors.Is(err, driver.ErrDenied)
}
