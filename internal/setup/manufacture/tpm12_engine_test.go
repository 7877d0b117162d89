//go:build cgo

package manufacture

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// real is a TPM 1.2 of libtpms as a job has it.
type real struct{ *emul.TPM }

func (r real) Execute(_ context.Context, cmd []byte) ([]byte, error) { return r.TPM.Execute(cmd) }
func (r real) Info(_ context.Context, flags uint64) (string, error)  { return r.TPM.Info(flags) }

// newReal returns a TPM 1.2 that was never used, and what switches it off and on.
func newReal(t *testing.T) (real, func()) {
	t.Helper()
	x, err := emul.New(t.Context(), libtpms.Engine(), emul.Options{
		Version: tpm.V12,
		Open:    func() (*nv.Store, error) { return nv.New(nv.Scratch(nil), tpm.V12.FilePrefix(), nil), nil },
		Error:   t.Errorf,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.Close() })
	on := func() {
		t.Helper()
		if err := x.Init(false); err != nil {
			t.Fatal(err)
		}
		if err := x.Startup("clear"); err != nil {
			t.Fatal(err)
		}
	}
	on()
	return real{x}, on
}

// TestEngine checks that TPMs of libtpms that were manufactured with the reference's certificates
// have the responses of the reference's, except those about the reference's library.
func TestEngine(t *testing.T) {
	for _, g := range []struct {
		file string
		o    Options12
	}{
		{"owned", full},
		{"unlocked", Options12{EK: true, EKCert: true, PlatformCert: true}},
	} {
		t.Run(g.file, func(t *testing.T) {
			x, on := newReal(t)
			j, _, certs := newJob12(t, x)
			if err := Make12(t.Context(), j, g.o); err != nil {
				t.Fatal(err)
			}
			on()
			a := asker{t, client12{t.Context(), x}}
			b, err := os.ReadFile("testdata/tpm12/" + g.file + ".json")
			if err != nil {
				t.Fatal(err)
			}
			var want map[string]any
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			got := a.dump(g.o.Owner)
			for key, w := range want {
				if key == "version" || key == "version_val" || key == "nv_list_rc" {
					continue
				}
				if got := fmt.Sprint(got[key]); got != fmt.Sprint(w) {
					t.Errorf("%s = %v, want %v", key, got, w)
				}
			}
			if g.o.Owner {
				a.owner(certs)
			} else {
				a.unowned(certs, j.Keys[0].Public)
			}
		})
	}
}

// asker asks a manufactured TPM.
type asker struct {
	t *testing.T
	c client12
}

// ask sends a command in hex, without its header.
func (a asker) ask(o ordinal, params string) ([]byte, error) {
	p, err := hex.DecodeString(strings.ReplaceAll(params, " ", ""))
	if err != nil {
		a.t.Fatal(err)
	}
	return a.c.run(o, p)
}

// capability asks for a capability whose sub-capability is a u32, or none.
func (a asker) capability(area string, sub string) []byte {
	a.t.Helper()
	b, err := a.ask(0x65, area+fmt.Sprintf("%08x", len(sub)/2)+sub)
	if err != nil || len(b) < 4 {
		a.t.Fatalf("TPM_GetCapability(%s, %s) = %x, %v", area, sub, b, err)
	}
	return b[4:]
}

const (
	ordReadPubek   ordinal = 0x7C
	ordNVReadValue ordinal = 0xCF
	ordSign        ordinal = 0x3C
)

// readParams is what TPM_NV_ReadValue has before its session, for the whole of an
// index.
func readParams(index uint32, size int) []byte {
	b := binary.BigEndian.AppendUint32(nil, index)
	return binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 0), uint32(size))
}

// dump reads the values that the golden files contain.
func (a asker) dump(owned bool) map[string]any {
	d := map[string]any{
		"permanent_flags": hex.EncodeToString(a.capability("00000004", "00000108")),
		"stclear_flags":   hex.EncodeToString(a.capability("00000004", "00000109")),
		"manufacturer":    hex.EncodeToString(a.capability("00000005", "00000103")),
		"owner_present":   hex.EncodeToString(a.capability("00000005", "00000111")),
	}
	var indices []any
	for list := a.capability("0000000d", ""); len(list) >= 4; list = list[4:] {
		index := binary.BigEndian.Uint32(list)
		indices = append(indices, fmt.Sprintf("0x%x", index))
		public := a.capability("00000011", fmt.Sprintf("%08x", index))
		d[fmt.Sprintf("nv_public_%x", index)] = hex.EncodeToString(public)
		size := int(binary.BigEndian.Uint32(public[len(public)-4:]))
		b, err := a.c.run(ordNVReadValue, readParams(index, size))
		d[fmt.Sprintf("nv_read_noauth_%x", index)] = outcome(b, err)
		if owned {
			b, err := a.read(index, size)
			d[fmt.Sprintf("nv_read_owner_%x", index)] = outcome(b, err)
		}
	}
	d["nv_indices"] = indices
	_, err := a.ask(ordReadPubek, strings.Repeat("00", 20))
	d["readpubek_rc"] = fmt.Sprintf("0x%x", uint32(tpm.ResultOf(err)))
	return d
}

// outcome returns the result of a read as the golden files have it.
func outcome(b []byte, err error) string {
	return fmt.Sprintf("rc=0x%x len=%d", uint32(tpm.ResultOf(err)), max(len(b)-4, 0))
}

// read reads an index as the owner.
func (a asker) read(index uint32, size int) ([]byte, error) {
	s, err := a.c.oiap()
	if err != nil {
		a.t.Fatal(err)
	}
	rsp, err := a.c.send(tagRquAuth1, tagRspAuth1, ordNVReadValue,
		authorize(s, full.OwnerAuth, ordNVReadValue, readParams(index, size)))
	if err != nil {
		return nil, err
	}
	return rsp[:len(rsp)-41], verify(rsp, full.OwnerAuth, ordNVReadValue)
}

// owner uses what an owner has: the certificates, and the storage root key by its
// own authorization value.
func (a asker) owner(certs *issuer) {
	for typ, index := range certIndices {
		want := certs.certs[typ]
		if b, err := a.read(index, len(want)); err != nil || !bytes.Equal(b[4:], want) {
			a.t.Errorf("NV index 0x%x = %x, %v; want the %s certificate", index, b, err, typ)
		}
	}
	// The storage root key does not sign; a TPM reports that only after the right authorization.
	const authFail, invalidKeyUsage = 0x1, 0x24
	for auth, want := range map[Auth]tpm.Result{full.SRKAuth: invalidKeyUsage, full.OwnerAuth: authFail} {
		s, err := a.c.oiap()
		if err != nil {
			a.t.Fatal(err)
		}
		srk := []byte{0x40, 0, 0, 0} // its handle, which the authorization leaves out
		area := append([]byte{0, 0, 0, 20}, make([]byte, 20)...)
		_, err = a.c.send(tagRquAuth1, tagRspAuth1, ordSign, append(srk, authorize(s, auth, ordSign, area)...))
		if got := tpm.ResultOf(err); err == nil || got != want {
			a.t.Errorf("TPM_Sign with the SRK = %v, want %v", err, want)
		}
	}
}

// unowned reads what needs no owner: the certificates and the endorsement key.
func (a asker) unowned(certs *issuer, key crypto.PublicKey) {
	for typ, index := range certIndices {
		want := certs.certs[typ]
		b, err := a.c.run(ordNVReadValue, readParams(index, len(want)))
		if err != nil || !bytes.Equal(b[4:], want) {
			a.t.Errorf("NV index 0x%x = %x, %v; want the %s certificate", index, b, err, typ)
		}
	}
	b, err := a.ask(ordReadPubek, hex.EncodeToString(antiReplay[:]))
	if err != nil {
		a.t.Fatal(err)
	}
	ek, err := parseEK(b)
	if err != nil || !ek.Equal(key) {
		a.t.Errorf("TPM_ReadPubek = %v, %v; want %v", ek, err, key)
	}
}

// TestEngineWellKnown checks that ownership is taken with the well-known secrets.
func TestEngineWellKnown(t *testing.T) {
	x, _ := newReal(t)
	j, _, _ := newJob12(t, x)
	if err := Make12(t.Context(), j, Options12{EK: true, Owner: true, OwnerAuth: WellKnown(), SRKAuth: WellKnown()}); err != nil {
		t.Fatal(err)
	}
	if WellKnown() != sha1.Sum(make([]byte, 20)) {
		t.Error("the well-known secret is not hashed")
	}
}

// TestEngineTwice checks that a TPM that has a key does not get another one.
func TestEngineTwice(t *testing.T) {
	x, _ := newReal(t)
	for i, want := range []string{"", "TPM_CreateEndorsementKeyPair: TPM_RESULT 0x8"} {
		j, _, _ := newJob12(t, x)
		err := Make12(t.Context(), j, Options12{EK: true})
		if fmt.Sprint(err) != want && (i > 0 || err != nil) {
			t.Errorf("manufacture %d = %v, want %q", i+1, err, want)
		}
	}
}
