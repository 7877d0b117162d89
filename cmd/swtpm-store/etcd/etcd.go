// Package etcd stores the states of TPMs in etcd, version 3.4 or later.
//
// Below the prefix and the name of a state are these keys:
//
//	owner    JSON of driver.Owner; depends on the lease of the host that acquired the state;
//	         its create revision is the token
//	epoch    number of acquisitions, decimal; never deleted. One that cannot be read, or is above
//	         driver.MaxNumber, counts as the revision at which it was written, which is above all
//	         earlier epochs
//	head     see encodeHead; its modification revision is the driver.Revision of the state
//	item/X   item X
//	gen/N    the items of generation N, 20 decimal digits, see encodeItems
//
// Each change is one transaction, which compares the token and the revision of the head and
// writes in the same step. The package does not use etcd's locks, because the holder of a lock may
// not know that its lease expired.
package etcd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// Options says which cluster a Store uses.
type Options struct {
	Endpoints []string    // URLs of the members
	TLS       *tls.Config // nil without TLS
	User      string      // "" without authentication by password
	Password  string
	Prefix    string // of all keys, without a slash at its end

	// Damaged is called once for each value that List and Acquire find damaged; nil for none.
	Damaged func(err error)
}

// Store is a driver.Driver on an etcd cluster.
type Store struct {
	client   *clientv3.Client
	options  Options
	prefix   string
	damaged  func(err error)
	causes   causes
	suspects suspects
	joined   atomic.Bool // all endpoints have turned out to be members of one store
	times    times

	mu       sync.Mutex
	reported map[string]bool // texts of the errors with which damaged was called
}

// times are how long a member has to answer.
type times struct {
	// read limits a read. After it the read is sent to another member, if time is left. A
	// member that answers sooner is never suspected.
	read  time.Duration
	probe time.Duration // limits a probe
	// split limits the question which member it is, before a lease is granted: a member that is
	// down must not use up the time of the request.
	split time.Duration
}

var usual = times{read: 500 * time.Millisecond, probe: 2 * time.Second, split: 400 * time.Millisecond}

// Open returns the store. It connects in the background: if the cluster cannot be reached, only
// the first request fails.
func Open(o Options) (*Store, error) {
	s := &Store{options: o, prefix: strings.TrimSuffix(o.Prefix, "/") + "/", damaged: o.Damaged, reported: map[string]bool{}, times: usual}
	s.suspects.end, s.suspects.cancel = context.WithCancel(context.Background())
	c, err := clientv3.New(clientv3.Config{
		Endpoints: o.Endpoints, TLS: o.TLS, Username: o.User, Password: o.Password,
		DialTimeout:          2 * time.Second,
		DialKeepAliveTime:    10 * time.Second, // the shortest time that gRPC accepts; see suspects
		DialKeepAliveTimeout: time.Second,      // also for bytes that the member's kernel does not acknowledge
		PermitWithoutStream:  true,
		DialOptions:          []grpc.DialOption{grpc.WithChainUnaryInterceptor(s.observe)},
		Logger:               zap.NewNop(),
	})
	s.client = c
	if err != nil { // a password is checked at once
		s.suspects.cancel()
		return nil, s.opening(classify(err, driver.ErrUnreachable))
	}
	return s, nil
}

// key returns the key of a part of a state.
func (s *Store) key(name, part string) string { return s.prefix + name + "/" + part }

// Grant implements driver.Driver.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (driver.LeaseID, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	if err := s.refuseSplit(ctx); err != nil {
		return 0, err
	}
	rsp, err := s.client.Grant(leading(ctx), int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return 0, s.failed(err, driver.ErrUnreachable) // an unknown lease expires by itself
	}
	return driver.LeaseID(rsp.ID), nil
}

// Renew implements driver.Driver.
func (s *Store) Renew(ctx context.Context, id driver.LeaseID) (time.Duration, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	rsp, err := s.client.KeepAliveOnce(leading(ctx), clientv3.LeaseID(id))
	if err != nil {
		return 0, s.failed(err, driver.ErrUnreachable)
	}
	return time.Duration(rsp.TTL) * time.Second, nil
}

// Revoke implements driver.Driver.
func (s *Store) Revoke(ctx context.Context, id driver.LeaseID) error {
	_, err := s.client.Revoke(leading(ctx), clientv3.LeaseID(id))
	if err = s.failed(err, driver.ErrUnreachable); errors.Is(err, driver.ErrLease) {
		return nil
	}
	return err
}

// leading makes a request fail, rather than wait, at a member without a leader.
func leading(ctx context.Context) context.Context { return clientv3.WithRequireLeader(ctx) }

// Acquire implements driver.Driver.
func (s *Store) Acquire(ctx context.Context, name string, id driver.LeaseID, o driver.Owner) (driver.Token, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	ownerKey, epochKey, headKey := s.key(name, "owner"), s.key(name, "epoch"), s.key(name, "head")
	for {
		epoch, known, revision, err := s.epoch(ctx, name)
		if err != nil {
			return 0, err
		}
		conditions := []clientv3.Cmp{
			clientv3.Compare(clientv3.CreateRevision(ownerKey), "=", 0),
			clientv3.Compare(clientv3.ModRevision(epochKey), "=", revision),
		}
		if o.After != 0 {
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(headKey), "=", int64(o.Last)))
		}
		rsp, err := s.client.Txn(leading(ctx)).
			If(conditions...).
			Then(clientv3.OpPut(ownerKey, string(text), clientv3.WithLease(clientv3.LeaseID(id))),
				clientv3.OpPut(epochKey, strconv.FormatUint(epoch+1, 10))).
			Else(clientv3.OpGet(ownerKey), clientv3.OpGet(headKey, clientv3.WithKeysOnly())).
			Commit()
		switch {
		case err != nil:
			return s.acquired(ctx, name, o, s.failed(err, driver.ErrUnknown))
		case rsp.Succeeded:
			return driver.Token(rsp.Header.Revision), nil
		}
		if err := complete(rsp, 2); err != nil {
			return 0, err
		}
		if kvs := rsp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			owner, err := decodeOwner(ownerKey, kvs[0].Value)
			if err != nil {
				return 0, err
			}
			if !known {
				epoch = 0
			}
			return 0, &driver.OwnedError{Owner: *owner, Epoch: epoch}
		}
		last := driver.Revision(0)
		if kvs := rsp.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
			last = driver.Revision(kvs[0].ModRevision)
		}
		if o.After != 0 && last != o.Last {
			return 0, driver.ErrConflict
		}
		// Another host acquired and released it in between.
	}
}

// acquired finds out whether an acquisition without a reply was made, by the nonce of the owner,
// which no other acquisition has.
func (s *Store) acquired(ctx context.Context, name string, o driver.Owner, failed error) (driver.Token, error) {
	if !errors.Is(failed, driver.ErrUnknown) {
		return 0, failed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	state, err := s.Read(ctx, name)
	if err == nil && state.Owner != nil && state.Owner.Nonce == o.Nonce && state.Owner.PID == o.PID && state.Owner.Since.Equal(o.Since) {
		return state.Token, nil
	}
	return 0, failed
}

// Release implements driver.Driver.
func (s *Store) Release(ctx context.Context, name string, t driver.Token, handover driver.Sum) error {
	state, err := s.Read(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return driver.ErrFenced
	case err != nil:
		return err
	}
	then := []clientv3.Op{clientv3.OpDelete(s.key(name, "owner"))}
	if state.Revision != 0 && state.Damage == nil {
		state.Head.Handover = handover
		then = append(then, clientv3.OpPut(s.key(name, "head"), string(encodeHead(state.Head))))
	}
	_, err = s.change(ctx, name, t, state.Revision, "", then)
	return err
}

// change executes the operations then as one transaction. Its conditions are: t is the token of
// the owner, last is the revision of the head, and the key absent, unless it is "", does not exist.
// It returns the revision of the transaction.
func (s *Store) change(ctx context.Context, name string, t driver.Token, last driver.Revision, absent string, then []clientv3.Op) (driver.Revision, error) {
	if err := s.ready(ctx); err != nil {
		return 0, err
	}
	ownerKey, headKey := s.key(name, "owner"), s.key(name, "head")
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(ownerKey), "=", int64(t)), clientv3.Compare(clientv3.ModRevision(headKey), "=", int64(last))}
	if absent != "" {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(absent), "=", 0))
	}
	rsp, err := s.client.Txn(leading(ctx)).
		If(conditions...).
		Then(then...).
		Else(clientv3.OpGet(ownerKey, clientv3.WithKeysOnly()), clientv3.OpGet(headKey, clientv3.WithKeysOnly())).
		Commit()
	switch {
	case err != nil:
		return 0, s.failed(err, driver.ErrUnknown)
	case rsp.Succeeded:
		return driver.Revision(rsp.Header.Revision), nil
	}
	if err := complete(rsp, 2); err != nil {
		return 0, err
	}
	if kvs := rsp.Responses[0].GetResponseRange().Kvs; len(kvs) == 0 || kvs[0].CreateRevision != int64(t) {
		return 0, driver.ErrFenced
	}
	head := int64(0)
	if kvs := rsp.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
		head = kvs[0].ModRevision
	}
	if absent != "" && head == int64(last) {
		return 0, driver.ErrStored
	}
	return 0, driver.ErrConflict
}

// Read implements driver.Driver.
func (s *Store) Read(ctx context.Context, name string) (*driver.State, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	items := s.key(name, "item/")
	rsp, err := s.client.Txn(leading(ctx)).Then(
		clientv3.OpGet(s.key(name, "owner")), clientv3.OpGet(s.key(name, "epoch")), clientv3.OpGet(s.key(name, "head")),
		clientv3.OpGet(items, clientv3.WithPrefix()),
	).Commit()
	if err != nil {
		return nil, s.failed(err, driver.ErrUnreachable)
	}
	if err := complete(rsp, 4); err != nil {
		return nil, err
	}
	state, found := &driver.State{Items: driver.Items{}}, false
	for _, part := range rsp.Responses {
		for _, kv := range part.GetResponseRange().Kvs {
			found = true
			addPart(state, strings.TrimPrefix(string(kv.Key), s.key(name, "")), kv)
		}
	}
	if !found {
		return nil, fs.ErrNotExist
	}
	s.requireEpoch(state, name)
	return state, nil
}

// Write implements driver.Driver.
func (s *Store) Write(ctx context.Context, name string, t driver.Token, last driver.Revision, c driver.Change) (driver.Revision, error) {
	then, absent := []clientv3.Op{clientv3.OpPut(s.key(name, "head"), string(encodeHead(c.Head)))}, ""
	for item, b := range c.Put {
		then = append(then, clientv3.OpPut(s.key(name, "item/"+item), string(b)))
	}
	for _, item := range c.Delete {
		then = append(then, clientv3.OpDelete(s.key(name, "item/"+item)))
	}
	if c.Snapshot != nil {
		absent = s.generationKey(name, c.Head.Generation)
		then = append(then, clientv3.OpPut(absent, string(encodeItems(c.Snapshot))))
	}
	for _, n := range c.Expire {
		if c.Snapshot == nil || n != c.Head.Generation {
			then = append(then, clientv3.OpDelete(s.generationKey(name, n)))
		}
	}
	return s.change(ctx, name, t, last, absent, then)
}

func (s *Store) generationKey(name string, n uint64) string {
	return s.key(name, fmt.Sprintf("gen/%020d", n))
}

// Remove implements driver.Driver.
func (s *Store) Remove(ctx context.Context, name string, t driver.Token) error {
	state, err := s.Read(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return driver.ErrFenced
	case err != nil:
		return err
	}
	_, err = s.change(ctx, name, t, state.Revision, "", []clientv3.Op{
		clientv3.OpDelete(s.key(name, "owner")), clientv3.OpDelete(s.key(name, "head")),
		clientv3.OpDelete(s.key(name, "item/"), clientv3.WithPrefix()), clientv3.OpDelete(s.key(name, "gen/"), clientv3.WithPrefix()),
	})
	return err
}

// Close implements driver.Driver.
func (s *Store) Close() error {
	s.suspects.mu.Lock() // from now on no task starts
	s.suspects.cancel()
	s.suspects.mu.Unlock()
	s.suspects.tasks.Wait()
	return s.client.Close()
}

// addPart adds a key to a state; part is its name below the name of the state. It records in the state
// that a key cannot be read.
func addPart(state *driver.State, part string, kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	switch {
	case part == "owner":
		state.Token = driver.Token(kv.CreateRevision)
		var err error
		if state.Owner, err = decodeOwner(key, kv.Value); err != nil {
			state.Owner = &driver.Owner{Host: driver.UnknownHost, Damage: err}
		}
	case part == "epoch":
		state.Epoch, state.EpochDamage = decodeEpoch(kv)
	case part == "head":
		state.Revision = driver.Revision(kv.ModRevision)
		state.Head, state.Damage = decodeHead(key, kv.Value)
	case strings.HasPrefix(part, "item/"):
		state.Items[strings.TrimPrefix(part, "item/")] = kv.Value
	}
}
