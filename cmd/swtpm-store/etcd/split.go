package etcd

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// identity says which member answers at a URL.
type identity struct {
	url             string
	cluster, member uint64 // 0 if nothing answers
}

func identityOf(url string, status *clientv3.StatusResponse) identity {
	return identity{url, status.Header.GetClusterId(), status.Header.GetMemberId()}
}

// refuseSplit fails if the endpoints are not members of one store. It asks again at each call until
// all of them have answered: also an endpoint that is down may belong to another store.
func (s *Store) refuseSplit(ctx context.Context) error {
	if len(s.options.Endpoints) < 2 || s.joined.Load() {
		return nil
	}
	short, cancel := context.WithTimeout(ctx, s.times.split)
	defer cancel()
	all := make([]identity, len(s.options.Endpoints))
	var tasks sync.WaitGroup
	for i, url := range s.options.Endpoints {
		tasks.Go(func() {
			if status, err := s.client.Status(short, url); err == nil {
				all[i] = identityOf(url, status)
			}
		})
	}
	tasks.Wait()
	text, complete := s.split(ctx, all)
	if text != "" {
		return fmt.Errorf("%w: %s", driver.ErrSplit, text)
	}
	s.joined.Store(complete)
	return nil
}

// split returns a text about endpoints that are not members of one store, "" if there are none.
// complete reports whether all endpoints have answered.
func (s *Store) split(ctx context.Context, all []identity) (text string, complete bool) {
	var known []identity
	for _, next := range all {
		if next.cluster == 0 {
			continue
		}
		for _, first := range known {
			apart := first.cluster != next.cluster
			if !apart && first.member == next.member {
				apart = s.distinct(ctx, first.url, next.url)
			}
			if apart {
				return fmt.Sprintf("%s and %s are not members of one store: clusters %x and %x, members %x and %x; start etcd with --initial-cluster, or remove one from endpoints",
					first.url, next.url, first.cluster, next.cluster, first.member, next.member), true
			}
		}
		known = append(known, next)
	}
	return "", len(known) == len(all)
}

// distinct reports whether two endpoints with the same member ID are two stores: etcd computes its
// IDs from the configuration, so two servers with the same configuration have the same IDs. The
// endpoints are one member if the second one knows a lease of the first one.
func (s *Store) distinct(ctx context.Context, first, second string) bool {
	a, err := s.only(first)
	if err != nil {
		return false
	}
	defer a.Close()
	b, err := s.only(second)
	if err != nil {
		return false
	}
	defer b.Close()
	lease, err := a.Grant(ctx, 5)
	if err != nil {
		return false
	}
	defer func() { _, _ = a.Revoke(ctx, lease.ID) }()
	rsp, err := b.TimeToLive(ctx, lease.ID)
	return err == nil && rsp.TTL < 0
}

// only returns a client that uses only the member at url.
func (s *Store) only(url string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{url}, TLS: s.options.TLS, Username: s.options.User, Password: s.options.Password, DialTimeout: time.Second, Logger: zap.NewNop(),
	})
}
