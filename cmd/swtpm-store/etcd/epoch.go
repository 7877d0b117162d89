package etcd

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// epoch returns the epoch of a state and the revision of its key, both 0 for a new state. The epoch of
// a state whose epoch is missing is the revision of the store, which is above all earlier ones. known is
// false if the epoch is missing or cannot be read.
func (s *Store) epoch(ctx context.Context, name string) (epoch uint64, known bool, revision int64, err error) {
	now, err := s.client.Get(leading(ctx), s.key(name, "epoch"))
	if err != nil {
		return 0, false, 0, s.failed(err, driver.ErrUnreachable)
	}
	if len(now.Kvs) > 0 {
		epoch, err = decodeEpoch(now.Kvs[0])
		s.report(err)
		return epoch, err == nil, now.Kvs[0].ModRevision, nil
	}
	rest, err := s.client.Get(leading(ctx), s.key(name, ""), clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(1))
	if err != nil {
		return 0, false, 0, s.failed(err, driver.ErrUnreachable)
	}
	if len(rest.Kvs) > 0 {
		s.report(s.missingEpoch(name))
		epoch = uint64(rest.Header.Revision)
	}
	return epoch, false, 0, nil
}

// requireEpoch records in a state that exists that its epoch is missing.
func (s *Store) requireEpoch(state *driver.State, name string) {
	if state.Epoch == 0 && state.EpochDamage == nil {
		state.EpochDamage = s.missingEpoch(name)
	}
}

// missingEpoch returns the error for a state without an epoch, which each acquisition stores and
// nothing removes.
func (s *Store) missingEpoch(name string) error {
	return fmt.Errorf("%w; the next start of the TPM stores it again", damaged(s.key(name, "epoch"), errors.New("missing")))
}
