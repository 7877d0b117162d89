package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// vector is a directory below testdata/state; its README says who made it.
type vector struct {
	Name  string
	Args  []string
	Files map[string]struct {
		StateFlags *int   `json:"ctrl_state_flags_out"` // of a migration blob
		Flags      *Flags `json:"flags"`
		Version    uint8
		MinVersion uint8    `json:"min_version"`
		Outer      [][2]int `json:"outer"` // tag and length of each block
		Inner      [][2]int `json:"inner"`
		PayloadLen int      `json:"payload_len"`
		PayloadSum string   `json:"payload_sha256"`
		Sum        string   `json:"sha256"`
	}
	Key          string `json:"aes_key_hex"`
	MigrationKey string `json:"migration_aes_key_hex"`
}

func (v vector) path(name string) string { return filepath.Join("testdata", "state", v.Name, name) }

// keys reads the keys as the vector's command line says.
func (v vector) keys(t testing.TB) Keys {
	t.Helper()
	var k Keys
	for i := 0; i+1 < len(v.Args); i += 2 {
		src := Source{Hex: true, KDF: "pbkdf2", Bits: 128}
		for o := range strings.SplitSeq(v.Args[i+1], ",") {
			name, value, _ := strings.Cut(o, "=")
			switch name {
			case "file":
				src.Path = v.path(value)
			case "pwdfile":
				src.Path, src.Passphrase = v.path(value), true
			case "format":
				src.Hex = value == "hex"
			case "kdf":
				src.KDF = value
			case "mode":
				if value == "aes-256-cbc" {
					src.Bits = 256
				}
			default:
				t.Fatalf("%s: option %q", v.Name, o)
			}
		}
		key, err := ReadKey(src)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { key.Close() })
		switch v.Args[i] {
		case "--key":
			k.File = key
		case "--migration-key":
			k.Migration = key
		}
	}
	return k
}

func vectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/state/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(b, &vs); err != nil {
		t.Fatal(err)
	}
	if len(vs) != 23 {
		t.Fatalf("%d vectors, want 23", len(vs))
	}
	return vs
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// layout returns tag and length of each block.
func layout(t *testing.T, body []byte) [][2]int {
	t.Helper()
	var l [][2]int
	for len(body) > 0 {
		got, content, rest, ok := nextBlock(body)
		if !ok {
			t.Fatalf("block is not whole: % x", body)
		}
		l = append(l, [2]int{int(got), len(content)})
		body = rest
	}
	return l
}

// TestVectors checks that files and blobs that swtpm 0.7.1 has written are opened, with unusual
// encodings among them.
func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) { testVector(t, v) })
	}
}

// testVector opens each file of a vector.
func testVector(t *testing.T, v vector) {
	k := v.keys(t)
	for _, key := range []struct {
		k    *Key
		want string
	}{{k.File, v.Key}, {k.Migration, v.MigrationKey}} {
		got := ""
		if key.k != nil {
			got = hex.EncodeToString(key.k.bytes())
		}
		if got != key.want {
			t.Errorf("key = %s, want %s", got, key.want)
		}
	}
	if len(v.Files) < 2 {
		t.Fatalf("%d files", len(v.Files))
	}
	for name, f := range v.Files {
		blob := readFile(t, v.path(name))
		if hexSum(blob) != f.Sum {
			t.Fatalf("%s: the vector itself is damaged", name)
		}
		before := bytes.Clone(blob)
		var payload []byte
		var err error
		switch encrypted := f.StateFlags != nil && *f.StateFlags&2 != 0; {
		case strings.HasSuffix(name, ".blob") && f.Version == 1 && *f.Flags&3 != 0:
			if _, err := k.OpenBlob(blob, encrypted); !errors.Is(err, ErrVersion1) {
				t.Errorf("%s: OpenBlob = %v, want %v", name, err, ErrVersion1)
			}
			continue
		case strings.HasSuffix(name, ".blob"):
			payload, err = k.OpenBlob(blob, encrypted)
		case f.Version == 1 && k.File != nil:
			if _, err := Open(blob, k.File); !errors.Is(err, ErrVersion1) {
				t.Errorf("%s: Open = %v, want %v", name, err, ErrVersion1)
			}
			payload, err = OpenVersion1(blob, k.File)
		default:
			payload, err = Open(blob, k.File)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(blob, before) {
			t.Errorf("%s: open has changed its argument", name)
		}
		if len(payload) != f.PayloadLen || hexSum(payload) != f.PayloadSum {
			t.Errorf("%s: %d bytes %s, want %d bytes %s", name, len(payload), hexSum(payload), f.PayloadLen, f.PayloadSum)
		}
		i, err := Inspect(blob)
		want := Info{Version: f.Version, MinVersion: f.MinVersion, Flags: *f.Flags, Encrypted: *f.Flags&3 != 0}
		if i != want || err != nil {
			t.Errorf("%s: Inspect = %+v, %v, want %+v", name, i, err, want)
		}
	}
}

// TestLayout compares sizes, flags and blocks of the payload of each vector, sealed again, with
// the reference's.
func TestLayout(t *testing.T) {
	for _, v := range vectors(t) {
		if strings.HasPrefix(v.Name, "synth-") {
			continue
		}
		k := v.keys(t)
		for name, f := range v.Files {
			blob := readFile(t, v.path(name))
			if !strings.HasSuffix(name, ".blob") {
				payload, err := Open(blob, k.File)
				if err != nil {
					t.Fatal(err)
				}
				got, err := Seal(payload, k.File)
				if err != nil {
					t.Fatal(err)
				}
				want := f.Outer
				if k.File == nil {
					want = append(want, [2]int{0x100, 32})
				}
				compareLayout(t, v.Name+"/"+name, got, *f.Flags, want)
				continue
			}
			payload, err := k.OpenBlob(blob, false)
			if err != nil {
				t.Fatal(err)
			}
			got, encrypted, err := k.SealBlob(payload, strings.Contains(name, ".decrypted"))
			if err != nil {
				t.Fatal(err)
			}
			if want := *f.StateFlags&2 != 0; encrypted != want {
				t.Errorf("%s/%s: encrypted = %v, want %v", v.Name, name, encrypted, want)
			}
			compareLayout(t, v.Name+"/"+name, got, *f.Flags, f.Outer)
			inner, _ := find(got[headerSize:], tagMigration)
			if k.Migration != nil {
				var good int
				if inner, good, err = migrationLayer.open(got[headerSize:], k.Migration); err != nil || good != 1 {
					t.Fatal(good, err)
				}
			}
			if l := layout(t, inner); !equal(l, f.Inner) {
				t.Errorf("%s/%s: inner blocks %v, want %v", v.Name, name, l, f.Inner)
			}
			if k.File == nil && k.Migration == nil && !bytes.Equal(got, blob) {
				t.Errorf("%s/%s: a plain blob differs from the reference's", v.Name, name)
			}
		}
	}
}

func compareLayout(t *testing.T, name string, got []byte, flags Flags, blocks [][2]int) {
	t.Helper()
	h, body, err := parseHeader(got)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if want := (header{version: 2, minVersion: 1, flags: flags}); h != want {
		t.Errorf("%s: header %+v, want %+v", name, h, want)
	}
	if l := layout(t, body); !equal(l, blocks) {
		t.Errorf("%s: blocks %v, want %v", name, l, blocks)
	}
	if len(got) != cap(got) {
		t.Errorf("%s: sealed in a buffer of %d bytes that had to grow to %d", name, len(got), cap(got))
	}
}

func equal(a, b [][2]int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestGolden checks that our bytes equal the reference's, except the checksum block.
func TestGolden(t *testing.T) {
	got, err := Seal([]byte("state"), nil)
	if err != nil {
		t.Fatal(err)
	}
	const plain = "02" + "01" + "000a" + "0000" + "00000" + "03b" + // header
		"0001" + "00000005" + "7374617465" + // payload
		"0100" + "00000020" // SHA-256 of all this follows
	sum := sha256.Sum256(harness.Unhex(plain[:42]))
	if want := plain + hex.EncodeToString(sum[:]); hex.EncodeToString(got) != want {
		t.Errorf("Seal = %x, want %s", got, want)
	}
	blob, encrypted, err := Keys{}.SealBlob([]byte("state"), false)
	const migration = "02" + "01" + "000a" + "0004" + "0000001b" + "0004" + "0000000b" + "0001" + "00000005" + "7374617465"
	if hex.EncodeToString(blob) != migration || encrypted || err != nil {
		t.Errorf("SealBlob = %x, %v, %v, want %s", blob, encrypted, err, migration)
	}
}
