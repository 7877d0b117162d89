package emul

import (
	"bytes"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
)

// FuzzKept: what is kept is decoded without a panic, and is what was encoded.
func FuzzKept(f *testing.F) {
	x := &TPM{opt: Options{Version: tpm.V20, Library: "0.9.2"}}
	x.sizes.Store(&bufferSizes{size: 4096})
	h := x.keptHeader()
	f.Add(h[:])
	f.Add(append(h[:], "volatile"...))
	f.Add(h[:50])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := x.parseKept(b)
		if (err == nil) == (k == nil) {
			t.Fatalf("parseKept(%x) = %v, %v", b, k, err)
		}
		if k == nil {
			return
		}
		if !bytes.Equal(k.body, b[keptSize:]) || !bytes.Equal(k.permanent[:], b[32:64]) || len(k.library) > 12 {
			t.Errorf("parseKept(%x) = %+v", b, k)
		}
	})
}
