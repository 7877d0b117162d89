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

// ReadSnapshot returns a state from a file that "etcdctl snapshot save" has written, or from the
// database of a member that does not run, member/snap/db in its data directory. It changes
// nothing. If the member was killed, its last changes may be missing in the database: they are in
// its log, which only etcd can read.
//
// Source: etcd, server/storage/mvcc: the bucket "key" has an entry for each change. The name of an
// entry is the revision of the change, 17 bytes, followed by a "t" if the change removed the key.
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

// guarded turns a panic of read into an error. bbolt maps the file into memory and does not check
// it: a damaged file makes it panic, or read at an invalid address or after the end of the file.
func guarded[T any](read func() (T, error)) (result T, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if failed := recover(); failed != nil {
			err = fmt.Errorf("%w: %v; use another member or snapshot", driver.ErrDamaged, failed)
		}
	}()
	return read()
}

// readParts returns the latest value of each key that begins with below. The keys of the map are
// the rest of those keys.
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
