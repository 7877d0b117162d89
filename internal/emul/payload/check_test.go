package payload_test

import (
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul/payload"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// blobOf returns the kind of blob in a file of testdata, by its name.
func blobOf(name string) (tpm.Version, tpm.Blob) {
	v := tpm.V20
	if strings.HasPrefix(name, "tpm12-") {
		v = tpm.V12
	}
	for _, b := range tpm.Blobs {
		if filepath.Ext(name) == "."+b.Name() {
			return v, b
		}
	}
	return 0, 0
}

func load(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// genuine returns the names of the states in testdata.
func genuine(t testing.TB) []string {
	t.Helper()
	all, err := filepath.Glob("testdata/*state")
	if err != nil {
		t.Fatal(err)
	}
	perm, err := filepath.Glob("testdata/*.permall")
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, perm...)
	if len(all) < 20 {
		t.Fatalf("%d states in testdata, want at least 20", len(all))
	}
	for i := range all {
		all[i] = filepath.Base(all[i])
	}
	return all
}

// reseal replaces the SHA-1 that ends b.
func reseal(b []byte) []byte {
	n := len(b) - sha1.Size
	sum := sha1.Sum(b[:n])
	return append(b[:n:n], sum[:]...)
}

// TestGenuine checks that states of real TPMs are accepted.
func TestGenuine(t *testing.T) {
	for _, name := range genuine(t) {
		v, b := blobOf(name)
		if err := payload.Check(v, b, load(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOtherKind checks that the decoders of the other kinds refuse each state.
func TestOtherKind(t *testing.T) {
	for _, name := range genuine(t) {
		is, isBlob := blobOf(name)
		state := load(t, name)
		for _, v := range []tpm.Version{tpm.V12, tpm.V20} {
			for _, b := range tpm.Blobs {
				if v == is && b == isBlob {
					continue
				}
				if payload.Check(v, b, state) == nil {
					t.Errorf("%s is accepted as %v of a TPM %v", name, b, v)
				}
			}
		}
	}
}

// TestTruncated checks that every state is refused if it is cut anywhere, or extended.
func TestTruncated(t *testing.T) {
	for _, name := range genuine(t) {
		v, b := blobOf(name)
		if strings.HasPrefix(name, "tpm2-head-") && name != "tpm2-head-bare.permall" {
			continue // their keys have a newer layout, after which nothing is checked
		}
		state := load(t, name)
		for n := range len(state) {
			if err := payload.Check(v, b, state[:n]); !errors.Is(err, payload.ErrDamaged) {
				t.Errorf("%s, the first %d bytes: %v, want ErrDamaged", name, n, err)
			}
		}
		if payload.Check(v, b, append(state, 0)) == nil {
			t.Errorf("%s and a byte are accepted", name)
		}
	}
}

// TestTruncatedSealed checks the same for states of a TPM 1.2 that are cut before their SHA-1 and
// have a new one.
func TestTruncatedSealed(t *testing.T) {
	for _, name := range genuine(t) {
		v, b := blobOf(name)
		if v != tpm.V12 {
			continue
		}
		state := load(t, name)
		for n := 0; n < len(state)-sha1.Size; n += 11 { // each costs an RSA operation
			cut := reseal(append(state[:n:n], make([]byte, sha1.Size)...))
			if payload.Check(v, b, cut) == nil {
				t.Errorf("%s, the first %d bytes with their SHA-1, is accepted", name, n)
			}
		}
	}
}

// TestBitFlips checks that every flipped bit of the states that end with a SHA-1 is noticed.
func TestBitFlips(t *testing.T) {
	for _, name := range []string{"tpm12-fresh.permall", "tpm12-fresh.volatilestate", "tpm12-fresh.savestate", "tpm2-fresh.volatilestate"} {
		v, b := blobOf(name)
		state := load(t, name)
		for i := range state {
			if testing.Short() && i%16 != 0 {
				continue
			}
			for bit := range 8 {
				state[i] ^= 1 << bit
				if payload.Check(v, b, state) == nil {
					t.Errorf("%s with bit %d of byte %d flipped is accepted", name, bit, i)
				}
				state[i] ^= 1 << bit
			}
		}
	}
}

// put16 and put32 return edits that overwrite a field.
func put16(off int, v uint16) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint16(b[off:], v) }
}

func put32(off int, v uint32) func([]byte) {
	return func(b []byte) { binary.BigEndian.PutUint32(b[off:], v) }
}

// TestHostile checks states that crash libtpms 0.9.2, and similar ones. The offsets follow from
// the functions that package payload cites. SHA-1s are recomputed.
func TestHostile(t *testing.T) {
	tests := []struct {
		what, state string
		edit        func([]byte)
		want        string // in the error
	}{
		{"count of NV indices wraps a multiplication", "tpm12-fresh.permall", put32(1145, 0x02000000), "offset 1149: 33554432 NV indices take at least"},
		{"count of NV indices is one too many", "tpm12-fresh.permall", put32(1145, 1), "offset 1149: 1 NV indices take at least 47 bytes, but 0 are left"},
		{"RSA key without parameters", "tpm12-fresh.permall", put32(132, 1), "of an RSA key"},
		{"tag of the permanent data", "tpm12-fresh.permall", put16(2, 0x23), "offset 2: the tag of the permanent data is 0x0023, not 0x0022"},
		{"digest of the endorsement key", "tpm12-owned.permall", put16(420, 0), "offset 420: pubDataDigest"},
		{"public endorsement key", "tpm12-owned.permall", put32(300, 0), "offset 420: pubDataDigest"},
		{"private endorsement key", "tpm12-owned.permall", put32(500, 0), "do not match"},
		{"endorsement key without private part", "tpm12-owned.permall", put32(416, 0), "offset 416: the endorsement key has no private part"},
		{"size of an NV index", "tpm12-owned.permall", put32(2059, 0xffffffff), "at most 131072 is possible"},
		{"size of a sized buffer", "tpm12-owned.permall", put32(156, 0x10000), "the public endorsement key"},
		{"PCR selection", "tpm12-owned.permall", put16(2038, 4), "the size of a PCR selection is 4"},
		{"number of owner evict keys", "tpm12-evict.permall", put16(2022, 11), "the number of owner evict keys is 11"},
		{"number of loaded keys", "tpm12-fresh.volatilestate", put32(1191, 21), "the number of loaded keys is 21"},
		{"number of sessions", "tpm12-fresh.volatilestate", put32(579, 17), "the number of authorization sessions is 17"},
		{"number of DAA sessions", "tpm12-fresh.savestate", put32(371, 3), "the number of DAA sessions is 3"},
		{"number of NV flags", "tpm12-fresh.volatilestate", put32(1207, 0x80000000), "2147483648 NV indices"},

		{"magic", "tpm2-fresh.permall", put32(2, 0xab364724), "offset 2: the magic of the permanent state is 0xab364724"},
		{"version 0", "tpm2-fresh.permall", put16(0, 0), "offset 0: the version of the permanent state is 0"},
		{"minimum version above the version", "tpm2-fresh.permall", put16(6, 0x0103), "offset 6: the minimum version"},
		{"number of constants", "tpm2-fresh.permall", put32(16, 0xffffffff), "4294967295 constants"},
		{"block after the end", "tpm2-fresh.permall", put16(1293, 5), "a block takes 5 bytes, but 4 are left"},
		{"hash of the command audit", "tpm2-shutdown-state.permall", put16(1037, 0xffff), "the hash of the command audit is 0xffff"},
		{"hash that the TPM does not have", "tpm2-shutdown-state.permall", put16(1037, 0x12), "the hash of the command audit is 0x0012"},
		{"contents of an orderly NV index", "tpm2-shutdown-state.permall", put32(4352, 0x0180ff03), "the contents of orderly NV index 0x0180ff02 are missing"},
		{"size of them", "tpm2-shutdown-state.permall", put16(4360, 7), ""},
		{"type of a private key", "tpm2-shutdown-state.permall", put16(4735, 0x0002), "the type of a private key is 0x0002"},
		{"no type of a private key", "tpm2-shutdown-state.permall", put16(4735, 0), "a private key without a type has a secret"},
		{"handle of an NV index", "tpm2-shutdown-state.permall", put32(5603, 0x02c00002), "0x02c00002 is the handle of neither"},
		{"sequence that persists", "tpm2-shutdown-state.permall", put32(4409, 0x0000e132), "a hash sequence cannot be persistent"},
		{"magic of the volatile state", "tpm2-fresh.volatilestate", put32(2, 0), "offset 2: the magic of the volatile state"},
	}
	for _, test := range tests {
		v, b := blobOf(test.state)
		state := load(t, test.state)
		test.edit(state)
		if v == tpm.V12 || b == tpm.Volatile {
			state = reseal(state)
		}
		err := payload.Check(v, b, state)
		if !errors.Is(err, payload.ErrDamaged) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %s: %v, want ErrDamaged with %q", test.state, test.what, err, test.want)
		}
	}
}

// TestNewer checks that structures of unknown versions are accepted.
func TestNewer(t *testing.T) {
	tests := []struct {
		what, state string
		edit        func([]byte) []byte
	}{
		{"version that older readers can read, with a block", "tpm2-fresh.permall", func(b []byte) []byte {
			n := len(b)
			b[n-6], b[n-5] = 0, 3 // the block before the magic at the end
			return append(append(b[:n-4:n-4], 1, 2, 3), b[n-4:]...)
		}},
		{"version that older readers cannot read", "tpm2-fresh.permall", func(b []byte) []byte {
			put16(0, 9)(b)
			put16(6, 9)(b)
			return append(b[:8:8], "anything"...)
		}},
		{"structure inside that older readers cannot read", "tpm2-fresh.permall", func(b []byte) []byte {
			put16(503, 9)(b)
			put16(509, 9)(b)
			return b[:600]
		}},
		{"type of key", "tpm2-shutdown-state.permall", func(b []byte) []byte {
			put16(4421, 0x00a0)(b)
			return b[:4500]
		}},
		{"TPM 1.2 NV indices", "tpm12-fresh.permall", func(b []byte) []byte {
			put16(1143, 3)(b)
			return reseal(b)
		}},
	}
	for _, test := range tests {
		v, b := blobOf(test.state)
		if err := payload.Check(v, b, test.edit(load(t, test.state))); err != nil {
			t.Errorf("%s: newer %s: %v", test.state, test.what, err)
		}
	}
}

// TestUnknownKind checks that kinds of state that do not exist are refused.
func TestUnknownKind(t *testing.T) {
	if payload.Check(tpm.V20, tpm.Savestate, nil) == nil {
		t.Error("a savestate of a TPM 2.0 is accepted")
	}
	if payload.Check(0, tpm.Permanent, nil) == nil {
		t.Error("a state without a TPM version is accepted")
	}
}

// FuzzCheck checks that Check never panics and does not change the payload.
func FuzzCheck(f *testing.F) {
	for _, name := range genuine(f) {
		v, b := blobOf(name)
		f.Add(uint8(v), uint32(b), load(f, name), true)
	}
	f.Fuzz(func(t *testing.T, v uint8, b uint32, state []byte, seal bool) {
		if seal && len(state) >= sha1.Size && (v == 1 || b == 2) {
			state = reseal(state)
		}
		before := sha1.Sum(state)
		_ = payload.Check(tpm.Version(v), tpm.Blob(b), state)
		if sha1.Sum(state) != before {
			t.Error("Check has changed the payload")
		}
	})
}
