package etcd

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
)

// headSize is the size of a head in bytes.
const headSize = 1 + 8 + 8 + 32 + 32

// headVersion is the first byte of a head.
const headVersion = 1

// encodeHead returns the value of the key head, with big-endian numbers:
//
//	off len
//	  0   1 version, 1
//	  1   8 generation
//	  9   8 epoch of the writer
//	 17  32 SHA-256 of the items
//	 49  32 handover of the last Release, or zeros
func encodeHead(h driver.Head) []byte {
	b := append(make([]byte, 0, headSize), headVersion)
	b = binary.BigEndian.AppendUint64(b, h.Generation)
	b = binary.BigEndian.AppendUint64(b, h.Epoch)
	return append(append(b, h.Sum[:]...), h.Handover[:]...)
}

func decodeHead(key string, b []byte) (driver.Head, error) {
	if len(b) != headSize || b[0] != headVersion {
		return driver.Head{}, damaged(key, fmt.Errorf("%d bytes, expected %d bytes of version %d", len(b), headSize, headVersion))
	}
	h := driver.Head{
		Generation: binary.BigEndian.Uint64(b[1:]), Epoch: binary.BigEndian.Uint64(b[9:]),
		Sum: driver.Sum(b[17:49]), Handover: driver.Sum(b[49:]),
	}
	if n := max(h.Generation, h.Epoch); n > driver.MaxNumber {
		return driver.Head{}, damaged(key, tooHigh(n))
	}
	return h, nil
}

// tooHigh returns the error about a generation or an epoch above driver.MaxNumber.
func tooHigh(n uint64) error {
	return fmt.Errorf("number %d, at most %d is possible", n, driver.MaxNumber)
}

// encodeItems returns the value of a generation. It contains for each item, in the order of the
// names: the size of the name and the size of the content in bytes, as 32-bit big-endian numbers,
// the name, and the content.
func encodeItems(items driver.Items) []byte {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(items)) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(name)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(items[name])))
		b = append(append(b, name...), items[name]...)
	}
	return b
}

func decodeItems(key string, b []byte) (driver.Items, error) {
	items := driver.Items{}
	if len(b) == 0 {
		return nil, damaged(key, errors.New("no item"))
	}
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, damaged(key, fmt.Errorf("%d bytes after the last item", len(b)))
		}
		name, size := uint64(binary.BigEndian.Uint32(b)), uint64(binary.BigEndian.Uint32(b[4:]))
		b = b[8:]
		if name+size > uint64(len(b)) {
			return nil, damaged(key, fmt.Errorf("an item of %d bytes, %d are left", name+size, len(b)))
		}
		items[string(b[:name])] = slices.Clone(b[name : name+size])
		b = b[name+size:]
	}
	return items, nil
}

// The sizes in bytes of the largest owner and of the longest string in it: owners are
// logged, and shown to the clients of other hosts.
const (
	maxOwner       = 4096
	maxOwnerString = 255
)

// decodeOwner returns an owner. Its error contains the remedy: the store does not show which host owns
// the state, so that a person must find out whether a TPM runs.
func decodeOwner(key string, b []byte) (*driver.Owner, error) {
	var o driver.Owner
	err := json.Unmarshal(b, &o)
	n := max(len(o.Host), len(o.Boot), len(o.Nonce))
	switch {
	case len(b) > maxOwner:
		err = fmt.Errorf("%d bytes, at most %d are allowed", len(b), maxOwner)
	case err == nil && n > maxOwnerString:
		err = fmt.Errorf("a string of %d bytes, at most %d are allowed", n, maxOwnerString)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; stop the TPM on its host, which removes the key; if no host runs it, remove the key: etcdctl del %s", damaged(key, err), key)
	}
	return &o, nil
}

// decodeEpoch returns an epoch. One that cannot be read or is too high counts as the revision at which it was written:
// each acquisition had a revision of its own, so that this is above all earlier epochs.
func decodeEpoch(kv *mvccpb.KeyValue) (uint64, error) {
	n, err := strconv.ParseUint(string(kv.Value), 10, 64)
	if err != nil {
		err = fmt.Errorf("%d bytes, expected a decimal number", len(kv.Value))
	} else if n > driver.MaxNumber {
		err = tooHigh(n)
	}
	if err != nil {
		return uint64(kv.ModRevision), fmt.Errorf("%w; the next start of the TPM replaces it", damaged(string(kv.Key), err))
	}
	return n, nil
}

func damaged(key string, err error) error {
	return fmt.Errorf("%w: key %q: %w", driver.ErrDamaged, key, err)
}
