package manufacture

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"

	"github.com/swtpm-go/swtpm/internal/ca/cert"
)

// Where TPM_TakeOwnership has what is random: offsets with the header.
const (
	ownerAt = 10 + 6
	srkAt   = ownerAt + 256 + 4
	authAt  = srkAt + 256 + 47 + 4 + 20 + 1
)

// blank zeroes what is random in a command.
func blank(cmd []byte) []byte {
	cmd = bytes.Clone(cmd)
	if len(cmd) == authAt+20 {
		clear(cmd[ownerAt : ownerAt+256])
		clear(cmd[srkAt : srkAt+256])
		clear(cmd[authAt:])
	}
	return cmd
}

// TestGolden checks that Make12 sends the commands that the reference sends.
func TestGolden(t *testing.T) {
	all := golden(t)
	p := &player{rsps: responses(all)}
	j, s, certs := newJob12(t, p)
	if err := Make12(context.Background(), j, full); err != nil {
		t.Fatal(err)
	}
	if len(p.cmds) != len(all) {
		t.Fatalf("%d commands, want %d", len(p.cmds), len(all))
	}
	for i, x := range all {
		if got, want := blank(p.cmds[i]), blank(x.cmd); !bytes.Equal(got, want) {
			t.Errorf("command %d = %x, want %x", i, got, want)
		}
	}

	modulus := all[4].rsp[38:][:256]
	if len(j.Keys) != 1 {
		t.Fatalf("Made = %v, want one key", j.Keys)
	}
	m := j.Keys[0]
	if key, ok := m.Public.(*rsa.PublicKey); !ok || !bytes.Equal(key.N.Bytes(), modulus) || key.E != 65537 {
		t.Errorf("the EK = %v, want the modulus %x", m.Public, modulus)
	}
	if !bytes.Equal(m.Cert, certs.certs[cert.EK][7:]) || m.Type != cert.EK || m.Handle != 0 || m.CertFile() != "ek-rsa2048.crt" {
		t.Errorf("Made = %+v", m)
	}
	for i, want := range []cert.Type{cert.EK, cert.Platform} {
		if r := certs.requests[i]; r.Type != want || r.Key != m.Public || r.Signing || r.Decryption || r.TPMSerial != "" {
			t.Errorf("request %d = %+v, want %q for the EK", i, r, want)
		}
	}
	want := []string{
		"begin RSA 2048 EK", "end RSA 2048 EK", "Successfully created EK.",
		"begin RSA 2048 SRK", "end RSA 2048 SRK", "Successfully took ownership of the TPM.",
		"Successfully created NVRAM area for EK certificate.",
		"Successfully created NVRAM area for Platform certificate.",
		"Successfully locked NVRAM access.",
	}
	if !slices.Equal(s.lines, want) {
		t.Errorf("told %q, want %q", s.lines, want)
	}
}

// TestAuthorization checks that the authorization of TPM_TakeOwnership equals the reference's.
func TestAuthorization(t *testing.T) {
	all := golden(t)
	oiap, cmd := all[5].rsp[10:], all[6].cmd
	s := oiapSession{handle: binary.BigEndian.Uint32(oiap), nonceEven: [20]byte(oiap[4:])}
	params := ownerParams(cmd[ownerAt:][:256], cmd[srkAt:][:256])
	got := command12(tagRquAuth1, ordTakeOwnership, authorize(s, Password("ooo"), ordTakeOwnership, params))
	if !bytes.Equal(got, cmd) {
		t.Errorf("TPM_TakeOwnership = %x, want %x", got, cmd)
	}
}

// TestPassword checks that the well-known secret is hashed like a password.
func TestPassword(t *testing.T) {
	for _, g := range []struct {
		name string
		got  Auth
		want string
	}{
		{"ooo", Password("ooo"), "4ae9fa0a8299a828a886c0eb30c930c7cf302a72"},
		{"well known", WellKnown(), "6768033e216468247bd031a0a2d9876d79818f8f"},
	} {
		if got := hex.EncodeToString(g.got[:]); got != g.want {
			t.Errorf("%s = %s, want %s", g.name, got, g.want)
		}
	}
}

// TestOptions checks which commands the options lead to.
func TestOptions(t *testing.T) {
	all := golden(t)
	enable, ek, own, certEK, certPlatform, lock := []int{0, 1, 2, 3}, []int{4}, []int{5, 6}, []int{7, 8}, []int{9, 10}, []int{11}
	for _, g := range []struct {
		name string
		o    Options12
		want [][]int
	}{
		{"nothing", Options12{}, [][]int{enable}},
		{"an EK", Options12{EK: true}, [][]int{enable, ek}},
		{"an owner", Options12{EK: true, Owner: true, OwnerAuth: full.OwnerAuth}, [][]int{enable, ek, own}},
		{"an owner without an EK", Options12{Owner: true}, [][]int{enable}},
		{"a certificate", Options12{EK: true, EKCert: true}, [][]int{enable, ek, certEK}},
		{"a platform certificate alone", Options12{EK: true, PlatformCert: true}, [][]int{enable, ek}},
		{"both", Options12{EK: true, EKCert: true, PlatformCert: true}, [][]int{enable, ek, certEK, certPlatform}},
		{"certificates without an EK", Options12{EKCert: true, PlatformCert: true}, [][]int{enable}},
		{"a lock without an EK", Options12{LockNV: true}, [][]int{enable, lock}},
	} {
		var part []exchange
		for _, i := range slices.Concat(g.want...) {
			part = append(part, all[i])
		}
		_, p, err := play(t, g.o, responses(part))
		if err != nil || len(p.cmds) != len(part) {
			t.Errorf("%s: %d commands, %v; want %d", g.name, len(p.cmds), err, len(part))
			continue
		}
		for i, x := range part {
			if !bytes.Equal(blank(p.cmds[i]), blank(x.cmd)) {
				t.Errorf("%s: command %d = %x, want %x", g.name, i, p.cmds[i], x.cmd)
			}
		}
	}
}

// TestRefused checks that Make12 fails if a command fails, or if its response has another length or was
// changed.
func TestRefused(t *testing.T) {
	all := golden(t)
	for i := range all {
		o := ordinal(binary.BigEndian.Uint32(all[i].cmd[6:]))
		try := func(what, want string, rsp []byte) {
			t.Helper()
			rsps := responses(all[:i+1])
			rsps[i] = rsp
			j, p, err := play(t, full, rsps)
			if err == nil || !strings.Contains(err.Error(), o.String()+": ") || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, %s: %v; want %q", o, what, err, want)
			}
			if len(p.cmds) != i+1 || len(j.Keys) > 1 {
				t.Errorf("%v, %s: %d commands, want %d", o, what, len(p.cmds), i+1)
			}
		}
		try("refused", "TPM_RESULT 0x9 (TPM_FAIL)", tpm.ErrorResponse(tpm.V12, tpm.Fail))
		try("no response", "shorter than its header", nil)
		rsp := all[i].rsp
		try("longer", "but its header says", append(bytes.Clone(rsp), 0))
		other := bytes.Clone(rsp)
		other[1]++
		try("another tag", "tag 0x00c", other)
		if len(rsp) == tpm.HeaderSize {
			continue
		}
		for at := tpm.HeaderSize; at < len(rsp); at++ {
			if o == ordOIAP { // any value is valid
				break
			}
			bad := bytes.Clone(rsp)
			bad[at] ^= 0x10
			try("changed", "", bad)
		}
		short := bytes.Clone(rsp[:len(rsp)-1])
		binary.BigEndian.PutUint32(short[2:], uint32(len(short)))
		try("short", "", short)
	}
}

// TestIssuer checks that a missing or empty certificate is an error before any certificate is
// stored.
func TestIssuer(t *testing.T) {
	all := golden(t)
	broken := errors.New("no CA")
	for _, g := range []struct {
		certs issuer
		want  string
	}{
		{issuer{err: broken}, "no CA"},
		{issuer{certs: map[cert.Type][]byte{cert.EK: {}}}, "EK certificate is empty"},
		{issuer{certs: map[cert.Type][]byte{cert.EK: make([]byte, 8)}}, "Platform certificate is empty"},
	} {
		p := &player{rsps: responses(all)}
		j, _, _ := newJob12(t, p)
		j.Certs = &g.certs
		err := Make12(context.Background(), j, full)
		if err == nil || !strings.Contains(err.Error(), g.want) || len(p.cmds) != 7 {
			t.Errorf("%d commands, %v; want 7, %q", len(p.cmds), err, g.want)
		}
	}
}

// TestShortCertificate checks that what the program wrote gets into the TPM and into
// a file, even if it is no longer than the header of a certificate.
func TestShortCertificate(t *testing.T) {
	all := golden(t)
	for _, g := range []struct{ in, file string }{{"a", "a"}, {"1234567", "1234567"}, {"12345678", "8"}} {
		p := &player{rsps: responses(all)}
		j, _, certs := newJob12(t, p)
		certs.certs = map[cert.Type][]byte{cert.EK: []byte(g.in), cert.Platform: []byte("p")}
		if err := Make12(context.Background(), j, full); err != nil {
			t.Errorf("%q: %v", g.in, err)
			continue
		}
		if got := string(j.Keys[0].Cert); got != g.file {
			t.Errorf("the certificate %q is %q in a file, want %q", g.in, got, g.file)
		}
		for i, want := range map[int]string{8: g.in, 10: "p"} {
			if got := string(p.cmds[i][22:]); got != want {
				t.Errorf("command %d writes %q, want %q", i, got, want)
			}
		}
	}
}

// TestLongCertificate checks that a long certificate is written in parts that a TPM accepts.
func TestLongCertificate(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789"), 601)
	ok := tpm.ErrorResponse(tpm.V12, 0)
	p := &player{rsps: [][]byte{ok, ok, ok, ok}}
	if err := (client12{context.Background(), p}).store(certIndices[cert.EK], long); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for _, cmd := range p.cmds[1:] {
		if off := binary.BigEndian.Uint32(cmd[14:]); int(off) != len(got) || len(cmd) > 3072 {
			t.Errorf("%d bytes to offset %d, want at most 3072 to %d", len(cmd), off, len(got))
		}
		got = append(got, cmd[22:]...)
	}
	if !bytes.Equal(got, long) || len(p.cmds) != 4 {
		t.Errorf("%d commands write %d bytes, want 3 that write %d", len(p.cmds)-1, len(got), len(long))
	}
}

// FuzzResponses gives a manufacture any responses. It checks that only
// a key is accepted as a key, and that the owner's authorization covers each byte.
func FuzzResponses(f *testing.F) {
	all := golden(f)
	for _, x := range all {
		f.Add(x.rsp)
	}
	f.Fuzz(func(t *testing.T, rsp []byte) {
		for _, tag := range []uint16{tpm.TagRsp12, tagRspAuth1} {
			if b, err := parseResponse(rsp, tag); err == nil && !bytes.Equal(rsp, command12(tag, 0, b)) {
				t.Errorf("parseResponse(%x) = %x", rsp, b)
			}
		}
		if len(rsp) < tpm.HeaderSize {
			return
		}
		if ek, err := parseEK(rsp[tpm.HeaderSize:]); err == nil && (ek.N.BitLen() != 2048 || ek.N.Bit(0) != 1) {
			t.Errorf("an EK of %d bits", ek.N.BitLen())
		}
		if err := verify(rsp[tpm.HeaderSize:], full.OwnerAuth, ordTakeOwnership); err == nil {
			rsp[tpm.HeaderSize] ^= 1
			if verify(rsp[tpm.HeaderSize:], full.OwnerAuth, ordTakeOwnership) == nil {
				t.Errorf("verify(%x) takes another byte for the same", rsp)
			}
		}
	})
}
