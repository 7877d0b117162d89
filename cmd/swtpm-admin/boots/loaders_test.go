package boots

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/internal/ledger"
)

// certificate returns a certificate with this common name.
func certificate(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// shimImage returns a PE image with one section, whose name is in the table of long names.
func shimImage(section []byte) []byte {
	const coff, optional, headers = 64, 240, 512
	le := binary.LittleEndian
	b := make([]byte, headers)
	copy(b, "MZ")
	le.PutUint32(b[60:], coff)
	at := copy(b[coff:], "PE\x00\x00") + coff
	le.PutUint16(b[at+2:], 1)
	le.PutUint32(b[at+8:], uint32(headers+len(section))) // symbols: none, the names follow at once
	le.PutUint16(b[at+16:], optional)
	opt := at + 20
	le.PutUint16(b[opt:], 0x20b)
	le.PutUint32(b[opt+60:], headers)
	h := b[opt+optional:]
	copy(h, "/4")
	le.PutUint32(h[8:], uint32(len(section)))
	le.PutUint32(h[16:], uint32(len(section)))
	le.PutUint32(h[20:], headers)
	b = append(b, section...)
	return append(append(le.AppendUint32(b, 0), shimSection...), 0)
}

// vendorSection returns shim's section with keys.
func vendorSection(allowed, denied []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(allowed)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(denied)))
	b = binary.LittleEndian.AppendUint32(b, 16)
	b = binary.LittleEndian.AppendUint32(b, uint32(16+len(allowed)))
	return append(append(b, allowed...), denied...)
}

// write returns the path of a new file.
func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// measured returns the measurement of data in a PCR.
func measured(pcr uint32, data []byte) *measurement {
	return &measurement{Index: pcr, Digests: []ledger.Digest{{Alg: ledger.SHA256, Value: eventlog.Sum(ledger.SHA256, data)}}}
}

// TestShim checks the names of what shim measures of its built-in keys, with one certificate and with
// a list.
func TestShim(t *testing.T) {
	der := certificate(t, "Vendor CA")
	list := eventlog.AppendCertificate(nil, eventlog.ShimLock, der)
	authority := eventlog.Variable{Name: "MokListRT", Vendor: eventlog.ShimLock, Data: append(eventlog.ShimLock[:], der...)}
	for _, allowed := range [][]byte{der, list} {
		f := newFiles()
		if err := f.AddImages(write(t, "shimx64.efi", shimImage(vendorSection(allowed, list)))); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			m    *measurement
			want string
		}{
			{measured(14, list), "shim's list MokList as shimx64.efi has it: Vendor CA"},
			{measured(7, authority.Measured()), "image allowed by the certificate Vendor CA in shimx64.efi"},
			{measured(14, []byte{1}), "a setting of shim that is on, such as MokListTrusted"},
			{measured(7, []byte{1}), ""},
		} {
			if n, _ := f.lookup(c.m); n.Text != c.want {
				t.Errorf("PCR %d: %q, want %q", c.m.Index, n.Text, c.want)
			}
		}
	}
	section := vendorSection(der, list)
	for n := 0; n < len(section); n += 41 { // cut off
		if err := newFiles().AddImages(write(t, "shimx64.efi", shimImage(section[:n]))); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// TestGRUB checks that commands have names if GRUB measures them as they are in the file.
func TestGRUB(t *testing.T) {
	f := newFiles()
	config := "# comment\nset timeout=5\n  linux   /vmlinuz root=/dev/vda quiet\ninitrd $prefix/initrd\nmenuentry 'x' {\n}\n"
	if err := f.AddImages(write(t, "grub.cfg", []byte(config))); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"linux /vmlinuz root=/dev/vda quiet": "GRUB command: linux /vmlinuz root=/dev/vda quiet",
		"/vmlinuz root=/dev/vda quiet":       `kernel command line of GRUB: "/vmlinuz root=/dev/vda quiet"`,
		"set timeout=5":                      "GRUB command: set timeout=5",
		"initrd $prefix/initrd":              "",
		"# comment":                          "",
	} {
		if n, _ := f.lookup(measured(8, []byte(text))); n.Text != want {
			t.Errorf("%q: %q, want %q", text, n.Text, want)
		}
	}
}

// TestContentOfVariables checks that the content of a variable names a measurement only where
// firmware or shim measures the content of this variable.
func TestContentOfVariables(t *testing.T) {
	vars := variableStore(
		eventlog.Variable{Name: "SecureBootEnable", Vendor: eventlog.GUID{1}, Data: []byte{2}},
		eventlog.Variable{Name: "MokList", Vendor: eventlog.ShimLock, Data: []byte("list")},
		eventlog.Variable{Name: "BootOrder", Vendor: eventlog.GlobalVariable, Data: []byte{1, 0}},
	)
	f := newFiles()
	if err := f.AddVariables(write(t, "VARS.fd", vars)); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, data := range [][]byte{{2}, []byte("list"), {1, 0}} {
		for _, pcr := range []uint32{1, 5, 7, 14} {
			if n, ok := f.lookup(measured(pcr, data)); ok {
				got = append(got, indexText(pcr)+": "+n.Text)
			}
		}
	}
	if want := []string{"PCR 14: shim's variable MokList", "PCR 1: boot order 0001"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// variableStore returns a store of EDK2 with these variables.
func variableStore(all ...eventlog.Variable) []byte {
	const head = 72
	le := binary.LittleEndian
	var list []byte
	for _, v := range all {
		name := append(eventlog.EncodeUTF16(v.Name), 0, 0)
		e := append(le.AppendUint16(nil, 0x55aa), 0x3f, 0)
		e = append(e, make([]byte, 32)...)
		e = le.AppendUint32(le.AppendUint32(e, uint32(len(name))), uint32(len(v.Data)))
		e = append(append(append(e, v.Vendor[:]...), name...), v.Data...)
		list = append(append(list, e...), make([]byte, -len(e)&3)...)
	}
	list = append(list, 0xff, 0xff, 0xff, 0xff)
	store := append([]byte{0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92}, make([]byte, 12)...)
	le.PutUint32(store[16:], uint32(len(store)+len(list)))
	volume := make([]byte, head)
	le.PutUint64(volume[32:], uint64(head+len(store)+len(list)))
	copy(volume[40:], "_FVH")
	le.PutUint16(volume[48:], head)
	return append(append(volume, store...), list...)
}
