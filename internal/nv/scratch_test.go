package nv_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestScratch checks that a TPM on a Scratch reads its own changes, and that they do not reach
// the Backend.
func TestScratch(t *testing.T) {
	d := newDisk()
	below := open(d)
	mustStore(t, nv.New(below, "tpm2-00.", nil), "there")
	stores := below.stores

	s := nv.New(nv.Scratch(below), "tpm2-00.", nil)
	wantLoad(t, s, "there")
	mustStore(t, s, "new")
	wantLoad(t, s, "new")
	if err := s.Delete(nv.Permanent); err != nil {
		t.Error(err)
	}
	if _, err := s.Load(nv.Permanent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load of what was deleted = %v", err)
	}
	for _, item := range []string{nv.Permanent, nv.Volatile} {
		if err := s.Delete(item); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Delete of nothing = %v", err)
		}
	}
	mustStore(t, s, "again")
	wantLoad(t, s, "again")
	if err := s.SwapBackup(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("SwapBackup = %v", err)
	}
	if err := s.Close(); err != nil || !below.closed {
		t.Errorf("Close = %v, and below closed = %v", err, below.closed)
	}
	if below.stores != stores {
		t.Errorf("%d stores came through", below.stores-stores)
	}
	wantLoad(t, nv.New(open(d), "tpm2-00.", nil), "there")

	s = nv.New(nv.Scratch(nil), "tpm2-00.", nil)
	if _, err := s.Load(nv.Permanent); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load of nothing = %v", err)
	}
	mustStore(t, s, "new")
	wantLoad(t, s, "new")
}
