package setup

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const uuid = "0c9a3b2e-1111-2222-3333-444455556666"

// TestSplitVMID checks the name and the UUID that --vmid gives.
func TestSplitVMID(t *testing.T) {
	for in, want := range map[string][2]string{
		"vm:" + uuid:     {"vm", uuid},
		"a:b:" + uuid:    {"a:b", uuid},
		uuid:             {"", uuid},
		":" + uuid:       {"", uuid},
		"vm":             {"vm", ""},
		"vm:x":           {"vm:x", ""},
		"":               {"", ""},
		"vm:" + uuid[1:]: {"vm:" + uuid[1:], ""},
	} {
		if name, id := splitVMID(in); name != want[0] || id != want[1] {
			t.Errorf("splitVMID(%q) = %q, %q, want %q", in, name, id, want)
		}
	}
}

// FuzzSplitVMID checks that nothing is lost.
func FuzzSplitVMID(f *testing.F) {
	for _, s := range []string{"", "vm", "vm:" + uuid, uuid, ":"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, id := splitVMID(s)
		if joined := name + ":" + id; id == "" && name != s || id != "" && joined != s && ":"+s != joined {
			t.Errorf("splitVMID(%q) = %q, %q", s, name, id)
		}
	})
}

// TestDescribe checks the fingerprint, issuer and serial number in the inventory, and that bad
// certificates are errors.
func TestDescribe(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(0x0102), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now()}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var e, f, g inventoryEntry
	if err := e.describe(der); err != nil {
		t.Fatal(err)
	}
	sum, whole := sha256.Sum256(spki), sha256.Sum256(der)
	if e.Fingerprint != hex.EncodeToString(sum[:]) || e.Certificate != hex.EncodeToString(whole[:]) || e.Issuer != "CN=ca" || e.Serial != "0102" {
		t.Errorf("entry %+v", e)
	}
	header := []byte{0x10, 0x01, 0, byte((len(der) + 2) >> 8), byte(len(der) + 2), 0x10, 0x02}
	if err := f.describe(append(header, der...)); err != nil || f != e {
		t.Errorf("with a header: %+v, %v", f, err)
	}
	if err := g.describeKey(key.Public()); err != nil || g != (inventoryEntry{Fingerprint: e.Fingerprint}) {
		t.Errorf("without a certificate: %+v, %v", g, err)
	}
	for _, bad := range [][]byte{nil, {0x10, 1, 0}, der[1:]} {
		if err := g.describe(bad); err == nil {
			t.Errorf("describe(%x) succeeds", bad)
		}
	}
}

// TestAppend checks that lines stay whole with many writers, and after one that was
// cut short.
func TestAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "inventory.jsonl")
	if err := os.WriteFile(path, []byte(`{"vm":"half`), 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			vm := fmt.Sprint("vm\n", i)
			if err := appendInventory(path, inventoryEntry{VM: vm, Type: "ek"}, inventoryEntry{VM: vm, Type: "iak"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(lines) != 21 || lines[0] != `{"vm":"half` {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	for i := 1; i < len(lines); i += 2 {
		var a, b inventoryEntry
		if err := json.Unmarshal([]byte(lines[i]), &a); err != nil {
			t.Error(err)
		}
		if err := json.Unmarshal([]byte(lines[i+1]), &b); err != nil {
			t.Error(err)
		}
		if a.VM != b.VM || a.Type != "ek" || b.Type != "iak" {
			t.Errorf("%+v and %+v in a row", a, b)
		}
	}
}

// TestTrap checks that the inventory is not written through a link.
func TestTrap(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "i")
	if err := os.Symlink(outside, path); err != nil {
		t.Fatal(err)
	}
	if err := appendInventory(path, inventoryEntry{VM: "a"}); err == nil {
		t.Error("a link is followed")
	}
	if b, _ := os.ReadFile(outside); string(b) != "x\n" {
		t.Errorf("outside is %q", b)
	}
}
