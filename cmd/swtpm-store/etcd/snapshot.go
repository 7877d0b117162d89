package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// ReadSnapshot returns a state as it is in a file that "etcdctl snapshot save" has written, or in
// the database of a member that does not run, member/snap/db of its data directory. It changes
// nothing. Changes of the last moments before a member was killed may be missing from its
// database: they are in its log, which only etcd reads.
//
// Source: etcd, server/storage/mvcc: the bucket "key" has an entry for each change, named by its
// revision of 17 bytes, and by a "t" after it if it removed the key.
func ReadSnapshot(file, prefix, name string) (*driver.State, error) {
	if _, err := os.Stat(file); err != nil {
		return nil, err
	}
	s := &Store{prefix: strings.TrimSuffix(prefix, "/") + "/"}
	latest, err := guarded(func() (map[string]*mvccpb.KeyValue, error) { return readParts(file, s.key(name, "")) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(latest) == 0 {
		return nil, fmt.Errorf("%s: state %s: %w", file, name, fs.ErrNotExist)
	}
	state := &driver.State{Items: driver.Items{}}
	for part, kv := range latest {
		addPart(state, part, kv)
	}
	return state, nil
}

// guarded turns a panic of read into an error. bbolt trusts its file, which it maps into memory: a
// damaged one makes it panic, or read at an invalid address or after the end of the file.
func guarded[T any](read func() (T, error)) (result T, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if failed := recover(); failed != nil {
			err = fmt.Errorf("%w: %v; use another member or snapshot", driver.ErrDamaged, failed)
		}
	}()
	return read()
}

// readParts returns the latest value of each key below a prefix, by the rest of the key.
func readParts(file, below string) (map[string]*mvccpb.KeyValue, error) {
	db, err := bolt.Open(file, 0o400, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, err
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%w: a running etcd uses the file; copy it first", err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w; use another member or snapshot", driver.ErrDamaged, err)
	}
	defer db.Close()
	latest := map[string]*mvccpb.KeyValue{}
	err = db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		if b == nil {
			return errors.New("not a database of etcd: bucket \"key\" is missing")
		}
		return b.ForEach(func(revision, value []byte) error {
			kv := &mvccpb.KeyValue{}
			if err := proto.Unmarshal(value, kv); err != nil {
				return fmt.Errorf("%w: revision %x: %w; use another member or snapshot", driver.ErrDamaged, revision, err)
			}
			key, ok := strings.CutPrefix(string(kv.Key), below)
			switch {
			case !ok:
			case len(revision) == 18 && revision[17] == 't':
				delete(latest, key)
			default:
				latest[key] = kv
			}
			return nil
		})
	})
	return latest, err
}
