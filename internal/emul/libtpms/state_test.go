package libtpms_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/nv/backend"
	"github.com/swtpm-go/swtpm/internal/seal"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestNV checks that written NV memory survives a power cycle.
func TestNV(t *testing.T) {
	d := newDisk()
	x := started(t, d, tpm.V20)
	define(t, x, 0x01800001, tpm2.TPMANV{AuthRead: true, AuthWrite: true, NoDA: true})
	write(t, x, 0x01800001, "kept")
	stores := d.stores
	if got := read(t, x, 0x01800001); got != "kept" || d.stores != stores {
		t.Errorf("NV_Read = %q with %d stores, want %q with none", got, d.stores-stores, "kept")
	}
	write(t, x, 0x01800001, "more")
	if d.stores == stores {
		t.Error("NV_Write stores nothing")
	}
	powerOn(t, x)
	if got := read(t, x, 0x01800001); got != "more" {
		t.Errorf("NV_Read after a power cycle = %q, want %q", got, "more")
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	y := started(t, d, tpm.V20) // like another process
	if got := read(t, y, 0x01800001); got != "more" {
		t.Errorf("NV_Read after a restart = %q, want %q", got, "more")
	}
	_ = y.Close()
}

// nvIndex12 describes an NV index of four bytes, as TPM_NV_DefineSpace takes it:
// no PCR, all localities, written and read without authorization while the area
// is not locked yet.
const nvIndex12 = "0018 00011101 " + anyPCR12 + anyPCR12 + "0017 00000001 00 00 00 00000004"

const anyPCR12 = "0003 000000 1f 0000000000000000000000000000000000000000 "

// TestNV12 is TestNV for a TPM 1.2.
func TestNV12(t *testing.T) {
	d := newDisk()
	x := started(t, d, tpm.V12)
	for _, g := range []struct{ name, in string }{
		{"physical presence, may be said in software", "00c1 0000000c 4000000a 0020"},
		{"physical presence", "00c1 0000000c 4000000a 0008"},
		{"NV_DefineSpace", "00c1 00000065 000000cc" + nvIndex12 + strings.Repeat("00", 20)},
		{"NV_WriteValue", "00c1 0000001a 000000cd 00011101 00000000 00000004 6b657074"},
	} {
		cmd := harness.Unhex(g.in)
		cmd[5] = byte(len(cmd))
		if rsp := run(t, x, cmd); code(rsp) != 0 {
			t.Fatalf("%s = %x", g.name, rsp)
		}
	}
	powerOn(t, x)
	if rsp := run(t, x, harness.Unhex("00c1 00000016 000000cf 00011101 00000000 00000004")); !strings.HasSuffix(string(rsp), "kept") {
		t.Errorf("NV_ReadValue after a power cycle = %x, want %x at its end", rsp, "kept")
	}
	_ = x.Close()
}

// vector is a state that the reference has made; see seal/testdata/state/README.md.
type vector struct {
	Name  string         `json:"name"`
	TPM   string         `json:"tpm"`
	PCR10 string         `json:"pcr10_read_response"`
	File  string         `json:"aes_key_hex"`
	Migr  string         `json:"migration_aes_key_hex"`
	Files map[string]any `json:"files"`
}

const vectorDir = "../../seal/testdata/state"

func vectors(t *testing.T) (v []vector) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectorDir, "vectors.json"))
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil || len(v) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	return v
}

func (v vector) version() tpm.Version {
	if v.TPM == "1.2" {
		return tpm.V12
	}
	return tpm.V20
}

func (v vector) keys(t *testing.T) (k seal.Keys) {
	t.Helper()
	for dst, s := range map[**seal.Key]string{&k.File: v.File, &k.Migration: v.Migr} {
		if s == "" {
			continue
		}
		b, err := hex.DecodeString(s)
		if err == nil {
			*dst, err = seal.NewKey(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		key := *dst
		t.Cleanup(func() { _ = key.Close() })
	}
	return k
}

// pcr10 reads PCR 10 and compares it with the vector's; the update counter of a
// TPM 2.0 is left out.
func (v vector) pcr10(t *testing.T, x *emul.TPM, when string) {
	t.Helper()
	cmd := harness.Unhex("8001 00000014 0000017e 00000001 000b 03 000400")
	if v.version() == tpm.V12 {
		cmd = harness.Unhex("00c1 0000000e 00000015 0000000a")
	}
	got, want := hex.EncodeToString(run(t, x, cmd)), v.PCR10
	if v.version() == tpm.V20 && len(got) > 28 {
		got, want = got[:20]+got[28:], want[:20]+want[28:]
	}
	if got != want {
		t.Errorf("%s: %s: PCR 10 = %s, want %s", v.Name, when, got, want)
	}
}

// TestVectors checks that the TPM starts with the states of the reference, from its files in a
// directory and from its blobs. Package seal opens every file; a TPM 1.2 generates an RSA key at
// each start, so that only a plain one and one with all keys start here.
func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		if v.version() == tpm.V12 && v.Name != "tpm12-plain" && v.Name != "tpm12-mig128pwd-key128" {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			prefix := versions[v.version()]
			if _, ok := v.Files[prefix+"permall"]; ok {
				v.fromFiles(t, prefix)
			}
			for _, kind := range []string{".blob", ".decrypted.blob"} {
				if _, ok := v.Files["permanent"+kind]; ok {
					v.fromBlobs(t, kind)
				}
			}
		})
	}
}

func (v vector) fromFiles(t *testing.T, prefix string) {
	dir, keys := t.TempDir(), v.keys(t)
	for _, b := range []tpm.Blob{tpm.Permanent, tpm.Volatile} {
		state, err := os.ReadFile(filepath.Join(vectorDir, v.Name, prefix+b.Name()))
		if err == nil {
			state, err = converted(state, keys.File)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, prefix+b.Name()), state, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	x := newTPM(t, nil, emul.Options{Version: v.version(), Keys: keys, Open: func() (*nv.Store, error) {
		b, err := backend.Open(nv.Location{Kind: nv.Directory, Path: dir}, nv.Options{Mode: 0o600, Lock: true, Prefix: prefix})
		if err != nil {
			return nil, err
		}
		return nv.New(b, prefix, keys.File), nil
	}})
	for n := range 2 { // the second time from the files of the first
		if err := x.Init(false); err != nil {
			t.Fatalf("Init() %d from files: %v", n, err)
		}
		v.pcr10(t, x, "from files")
		if err := x.StoreVolatile(); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// converted returns a state file as swtpm state rekey --accept-version-1 leaves it, if
// it is one that is refused otherwise.
func converted(state []byte, k *seal.Key) ([]byte, error) {
	if _, err := seal.Open(state, k); !errors.Is(err, seal.ErrVersion1) {
		return state, nil
	}
	payload, err := seal.OpenVersion1(state, k)
	if err != nil {
		return nil, err
	}
	return seal.Seal(payload, k)
}

func (v vector) fromBlobs(t *testing.T, kind string) {
	x := newTPM(t, newDisk(), emul.Options{Version: v.version(), Keys: v.keys(t)})
	for _, b := range []tpm.Blob{tpm.Permanent, tpm.Volatile} {
		name := map[tpm.Blob]string{tpm.Permanent: "permanent", tpm.Volatile: "volatile"}[b] + kind
		blob, err := os.ReadFile(filepath.Join(vectorDir, v.Name, name))
		if err != nil {
			t.Fatal(err)
		}
		err = x.SetState(b, false, blob)
		if errors.Is(err, seal.ErrVersion1) && strings.Contains(v.Name, "v1") {
			_ = x.Close()
			return // refused, as it must be
		}
		if err != nil {
			t.Fatalf("SetState(%s): %v", name, err)
		}
	}
	if err := x.Init(true); err != nil {
		t.Fatalf("Init() from blobs: %v", err)
	}
	v.pcr10(t, x, "from blobs "+kind)
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// TestMigration moves a running TPM to another host and back.
func TestMigration(t *testing.T) {
	key := func(n byte) *seal.Key {
		k, err := seal.NewKey(slices.Repeat([]byte{n}, 32))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = k.Close() })
		return k
	}
	file, migration := key(1), key(2)
	for _, v := range vectors(t) {
		if !strings.HasSuffix(v.Name, "-plain") || strings.HasPrefix(v.Name, "synth") {
			continue
		}
		for _, keys := range []seal.Keys{{}, {File: file}, {Migration: migration}, {File: file, Migration: migration}} {
			blobs := map[tpm.Blob][]byte{}
			next := newTPM(t, newDisk(), emul.Options{Version: v.version(), Keys: keys})
			v.restore(t, next)
			for _, plain := range []bool{false, true} {
				for _, b := range tpm.Blobs {
					blob, _, err := next.State(b, plain)
					if err != nil && (b != tpm.Savestate || !errors.Is(err, tpm.Retry)) {
						t.Fatalf("%s: State(%s): %v", v.Name, b, err)
					}
					blobs[b] = blob
				}
				if err := next.Close(); err != nil {
					t.Fatal(err)
				}
				next = newTPM(t, newDisk(), emul.Options{Version: v.version(), Keys: keys})
				for _, b := range tpm.Blobs {
					if len(blobs[b]) == 0 {
						continue // as QEMU does
					}
					if err := next.SetState(b, false, blobs[b]); err != nil {
						t.Fatalf("%s: SetState(%s): %v", v.Name, b, err)
					}
				}
				if err := next.Init(true); err != nil {
					t.Fatalf("%s: Init(): %v", v.Name, err)
				}
				v.pcr10(t, next, "on the other host")
			}
			if err := next.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// restore powers x on with the vector's plain blobs.
func (v vector) restore(t *testing.T, x *emul.TPM) {
	t.Helper()
	for _, name := range []string{"permanent", "volatile"} {
		blob, err := os.ReadFile(filepath.Join(vectorDir, v.Name, name+".blob"))
		if err != nil {
			t.Fatal(err)
		}
		b := map[string]tpm.Blob{"permanent": tpm.Permanent, "volatile": tpm.Volatile}[name]
		if err := x.SetState(b, false, blob); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Init(true); err != nil {
		t.Fatal(err)
	}
}

// TestVolatile resumes from the stored volatile state, and removes it on request.
func TestVolatile(t *testing.T) {
	d := newDisk()
	x := started(t, d, tpm.V20)
	extend := harness.Unhex("8002 00000041 00000182 0000000a 00000009 40000009 0000 00 0000 00000001 000b" + strings.Repeat("11", 32))
	readPCR := func() string {
		return hex.EncodeToString(run(t, x, harness.Unhex("8001 00000014 0000017e 00000001 000b 03 000400"))[30:])
	}
	before := readPCR()
	if rsp := run(t, x, extend); code(rsp) != 0 {
		t.Fatalf("PCR_Extend = %x", rsp)
	}
	after := readPCR()
	if before == after {
		t.Fatal("PCR_Extend changes nothing")
	}
	if err := x.StoreVolatile(); err != nil {
		t.Fatal(err)
	}
	for _, del := range []bool{false, true} {
		if err := x.Init(del); err != nil {
			t.Fatal(err)
		}
		if got := readPCR(); got != after {
			t.Errorf("PCR 10 after Init(%v) = %s, want %s", del, got, after)
		}
	}
	powerOn(t, x)
	if got := readPCR(); got != before {
		t.Errorf("PCR 10 after a start without volatile state = %s, want %s", got, before)
	}
	_ = x.Close()
}
