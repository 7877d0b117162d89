package linear

import (
	"bytes"
	"testing"

	"github.com/swtpm-go/swtpm/internal/nv"
)

// TestWipeAfterCut checks that Wipe removes the remains of an Apply that was interrupted after
// its header, and not the items.
func TestWipeAfterCut(t *testing.T) {
	old, next := bytes.Repeat([]byte("plain "), 300), bytes.Repeat([]byte("sealed"), 300)
	s := simOn(nil, false)
	f := fileOn(s)
	if err := f.Apply([]nv.Change{{Name: "tpm2-00.permall", Blob: old}}); err != nil {
		t.Fatal(err)
	}
	// As Apply, to where the header is on the disk.
	if err := f.Store("tpm2-00.permall", next); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(s.disk, old[:64]) {
		t.Fatal("nothing of the old item is left: this test tests nothing")
	}
	if err := fileOn(s).Wipe(); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(s.disk, old[:64]) {
		t.Error("the old item is still there")
	}
	if b, err := fileOn(s).Load("tpm2-00.permall"); err != nil || !bytes.Equal(b, next) {
		t.Errorf("Load = %d bytes, %v", len(b), err)
	}
}
