package etcd

import (
	"context"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// listBatch is the number of states that List asks for in one transaction, three keys each: etcd
// takes 128 operations by default.
const listBatch = 40

// List implements driver.Driver.
func (s *Store) List(ctx context.Context) ([]driver.Entry, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	// The names come from all keys, because any of them may be missing. Items and generations are
	// not read, because they are most of the data.
	keys, err := s.client.Get(leading(ctx), s.prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, s.failed(err, driver.ErrUnreachable)
	}
	var names []string
	for _, kv := range keys.Kvs {
		if name, ok := named(strings.TrimPrefix(string(kv.Key), s.prefix)); ok && (len(names) == 0 || names[len(names)-1] != name) {
			names = append(names, name) // the keys of a state are next to each other
		}
	}
	return s.entries(ctx, names, true)
}

// named returns the name of the state to which a key below the prefix belongs. ok is false for a key
// of another program.
func named(key string) (name string, ok bool) {
	name, part, _ := strings.Cut(key, "/")
	return name, name != "" && (part == "owner" || part == "epoch" || part == "head" || strings.HasPrefix(part, "item/") || strings.HasPrefix(part, "gen/"))
}

// Describe implements driver.Describer.
func (s *Store) Describe(ctx context.Context, names []string) ([]driver.Entry, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	return s.entries(ctx, names, false)
}

// entries returns the entries of the states with these names, without those of which neither owner nor
// epoch nor head exists unless other keys exist.
func (s *Store) entries(ctx context.Context, names []string, exist bool) (all []driver.Entry, err error) {
	for batch := range slices.Chunk(names, listBatch) {
		if all, err = s.appendEntries(ctx, all, batch, exist); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// appendEntries does the same for one transaction, appends the entries to all, and reports damaged
// keys.
func (s *Store) appendEntries(ctx context.Context, all []driver.Entry, names []string, exist bool) ([]driver.Entry, error) {
	var gets []clientv3.Op
	for _, name := range names {
		gets = append(gets, clientv3.OpGet(s.key(name, "owner")), clientv3.OpGet(s.key(name, "epoch")), clientv3.OpGet(s.key(name, "head")))
	}
	rsp, err := s.client.Txn(leading(ctx)).Then(gets...).Commit()
	if err != nil {
		return nil, s.failed(err, driver.ErrUnreachable)
	}
	if err := complete(rsp, len(gets)); err != nil {
		return nil, err
	}
	for i, name := range names {
		state := &driver.State{}
		for part, r := range rsp.Responses[3*i : 3*i+3] {
			for _, kv := range r.GetResponseRange().Kvs {
				addPart(state, []string{"owner", "epoch", "head"}[part], kv)
			}
		}
		if state.Token == 0 && state.Epoch == 0 && state.Revision == 0 && !exist {
			continue
		}
		s.requireEpoch(state, name)
		for _, err := range []error{state.Owner.Unreadable(), state.EpochDamage, state.Damage} {
			s.report(err)
		}
		all = append(all, driver.Entry{Name: name, Owner: state.Owner, Epoch: state.Epoch, Head: state.Head})
	}
	return all, nil
}

// Owned implements driver.OwnedLister: etcd knows the keys that depend on a lease.
func (s *Store) Owned(ctx context.Context, id driver.LeaseID) ([]string, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	rsp, err := s.client.TimeToLive(leading(ctx), clientv3.LeaseID(id), clientv3.WithAttachedKeys())
	if err != nil {
		return nil, s.failed(err, driver.ErrUnreachable)
	}
	var names []string
	for _, key := range rsp.Keys {
		if name, ok := strings.CutSuffix(strings.TrimPrefix(string(key), s.prefix), "/owner"); ok && !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	return names, nil
}

// maxReported is the number of damaged values that are reported.
const maxReported = 1000

// report calls Options.Damaged for a damaged value, once for each. err may be nil.
func (s *Store) report(err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := err.Error(); s.damaged != nil && !s.reported[text] && len(s.reported) < maxReported {
		s.reported[text] = true
		s.damaged(err)
	}
}
