package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// Generations implements driver.Driver. It skips keys that do not name a generation, see
// StrayGenerations: a state must not depend on what another program stores next to it.
func (s *Store) Generations(ctx context.Context, name string) ([]uint64, error) {
	all, _, err := s.generations(ctx, name)
	return all, err
}

// StrayGenerations implements driver.StrayLister.
func (s *Store) StrayGenerations(ctx context.Context, name string) (found []error, err error) {
	all, strays, err := s.generations(ctx, name)
	for _, n := range all {
		if _, err := s.Generation(ctx, name, n); errors.Is(err, driver.ErrDamaged) {
			found = append(found, fmt.Errorf("%w; generation %d cannot be restored", err, n))
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return found, err
		}
	}
	for _, key := range strays {
		found = append(found, fmt.Errorf("%w; no TPM uses it, remove the key: etcdctl del %s", damaged(key, errors.New("not the key of a generation")), quoted(key)))
	}
	return found, err
}

// generations returns the numbers of the generations, in the order in which they were written, and
// the keys next to them that another program has stored.
func (s *Store) generations(ctx context.Context, name string) (all []uint64, strays []string, err error) {
	if err := s.ready(ctx); err != nil {
		return nil, nil, err
	}
	prefix := s.key(name, "gen/")
	rsp, err := s.client.Get(leading(ctx), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, nil, s.failed(err, driver.ErrUnreachable)
	}
	// A generation is never replaced, so that a later change is another program's.
	slices.SortFunc(rsp.Kvs, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) })
	for _, kv := range rsp.Kvs {
		key := string(kv.Key)
		n, err := strconv.ParseUint(strings.TrimPrefix(key, prefix), 10, 64)
		if err != nil || n > driver.MaxNumber || key != s.generationKey(name, n) {
			strays = append(strays, key)
			continue
		}
		all = append(all, n)
	}
	return all, strays, nil
}

// quoted returns a key as one word of a shell.
func quoted(key string) string {
	if strings.ContainsFunc(key, func(r rune) bool {
		return !strings.ContainsRune("/._-+:@", r) && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
	}) {
		return "'" + strings.ReplaceAll(key, "'", `'\''`) + "'"
	}
	return key
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
