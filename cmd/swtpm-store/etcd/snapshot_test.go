package etcd

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-store/driver"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// TestDamagedSnapshot checks that a truncated or changed file is an error, or is read as far as it
// is intact, and never ends the process.
func TestDamagedSnapshot(t *testing.T) {
	m := etcdtest.Start(t)
	s := open(t, Options{Endpoints: []string{m.URL}, Prefix: "/swtpm"})
	for range 50 {
		if _, err := s.client.Put(t.Context(), "/swtpm/vm1/item/tpm2-00.permall", strings.Repeat("x", 6000)); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "snapshot")
	m.Snapshot(t, file)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSnapshot(file, "/swtpm", "vm1"); err != nil {
		t.Fatal(err)
	}
	damaged := 0
	read := func(what string, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadSnapshot(file, "/swtpm", "vm1")
		switch {
		case err == nil || errors.Is(err, os.ErrNotExist):
		case !errors.Is(err, driver.ErrDamaged) && !strings.Contains(err.Error(), "not a database of etcd"):
			t.Errorf("%s: %v", what, err)
		default:
			damaged++
		}
	}
	for size := 0; size < len(good); size += 4096 {
		read("truncated", good[:size])
	}
	if damaged == 0 {
		t.Error("no truncated file was found to be damaged")
	}
	damaged = 0
	random := rand.New(rand.NewPCG(1, 2))
	for page := 0; page+4096 <= len(good); page += 4096 {
		for range 4 { // in the header of the page, and in the entries after it
			data := bytes.Clone(good)
			for range 4 {
				data[page+random.IntN(64)] ^= byte(1 + random.IntN(255))
			}
			read("changed", data)
		}
	}
	if damaged == 0 {
		t.Error("no changed file was found to be damaged")
	}
	t.Logf("%d changed files were found to be damaged", damaged)
}
