package etcd

import (
	"cmp"
	"context"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// Generations implements driver.Driver.
func (s *Store) Generations(ctx context.Context, name string) ([]uint64, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	prefix := s.key(name, "gen/")
	rsp, err := s.client.Get(leading(ctx), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, s.failed(err, driver.ErrUnreachable)
	}
	slices.SortFunc(rsp.Kvs, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) })
	var all []uint64
	for _, kv := range rsp.Kvs {
		n, err := strconv.ParseUint(strings.TrimPrefix(string(kv.Key), prefix), 10, 64)
		if err != nil {
			return nil, damaged(string(kv.Key), err)
		}
		all = append(all, n)
	}
	return all, nil
}

// Generation implements driver.Driver.
func (s *Store) Generation(ctx context.Context, name string, n uint64) (driver.Items, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	key := s.generationKey(name, n)
	rsp, err := s.client.Get(leading(ctx), key)
	switch {
	case err != nil:
		return nil, s.failed(err, driver.ErrUnreachable)
	case len(rsp.Kvs) == 0:
		return nil, fs.ErrNotExist
	}
	return decodeItems(key, rsp.Kvs[0].Value)
}
