package e2e_test

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // TPM 1.2
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
)

// auth12 is an authorization session of a TPM 1.2.
type auth12 struct{ handle, even, secret []byte }

func sha1Of(parts ...[]byte) []byte {
	sum := sha1.Sum(slices.Concat(parts...))
	return sum[:]
}

func hmac12(key []byte, parts ...[]byte) []byte {
	h := hmac.New(sha1.New, key)
	h.Write(slices.Concat(parts...))
	return h.Sum(nil)
}

// The storage root key, its well-known secret, which swtpm-setup hashes (C-278), and the secret of
// sealed data.
var (
	srk       = []byte{0x40, 0, 0, 0}
	srkSecret = sha1Of(make([]byte, sha1.Size))
	noSecret  = make([]byte, sha1.Size)
	odd       = []byte("an odd nonce, 20 B..")
)

// osap opens a session for the storage root key.
//
// Source: TPM Main Part 3, 18.2.
func (c *channel) osap(t *testing.T) auth12 {
	t.Helper()
	rsp := c.ok(t, "00c1 00000024 0000000b 0004 40000000"+hex.EncodeToString(odd))
	return auth12{rsp[10:14], rsp[14:34], hmac12(srkSecret, rsp[34:54], odd)}
}

// oiap opens a session for sealed data.
func (c *channel) oiap(t *testing.T) auth12 {
	t.Helper()
	rsp := c.ok(t, "00c1 0000000a 0000000a")
	return auth12{rsp[10:14], rsp[14:34], noSecret}
}

// area returns the authorization of a command whose parameters have this digest. The session ends.
func (a auth12) area(digest []byte) []byte {
	end := []byte{0}
	return slices.Concat(a.handle, odd, end, hmac12(a.secret, digest, a.even, odd, end))
}

// send12 sends a command and returns the response.
func (c *channel) send12(t *testing.T, tag, ordinal uint32, body ...[]byte) []byte {
	t.Helper()
	all := slices.Concat(body...)
	rsp, err := c.transmit(fmt.Sprintf("%04x %08x %08x", tag, 10+len(all), ordinal) + hex.EncodeToString(all))
	if err != nil {
		t.Fatal(err)
	}
	return rsp
}

// seal12 seals data to the present value of a PCR below 8.
//
// Source: TPM Main Part 3, 10.1; Part 2, 8.3.
func (c *channel) seal12(t *testing.T, pcr int, data string) []byte {
	t.Helper()
	value := c.ok(t, fmt.Sprintf("00c1 0000000e 00000015 %08x", pcr))[10:]
	selection := []byte{0, 3, 1 << pcr, 0, 0}
	release := sha1Of(selection, []byte{0, 0, 0, 20}, value)
	info := slices.Concat(selection, release, make([]byte, 20))
	a := c.osap(t)
	parameters := slices.Concat(
		sha1Of(a.secret, a.even), // encrypts a secret of zeros
		binary.BigEndian.AppendUint32(nil, uint32(len(info))), info, binary.BigEndian.AppendUint32(nil, uint32(len(data))), []byte(data))
	rsp := c.send12(t, 0xc2, 0x17, srk, parameters, a.area(sha1Of([]byte{0, 0, 0, 0x17}, parameters)))
	if result(rsp) != 0 {
		t.Fatalf("TPM_Seal: %#x", result(rsp))
	}
	return rsp[10 : len(rsp)-41]
}

// unseal12 returns the data, or the result of the command.
func (c *channel) unseal12(t *testing.T, sealed []byte) (string, uint32) {
	t.Helper()
	digest := sha1Of([]byte{0, 0, 0, 0x18}, sealed)
	parent, data := c.osap(t), c.oiap(t)
	rsp := c.send12(t, 0xc3, 0x18, srk, sealed, parent.area(digest), data.area(digest))
	if r := result(rsp); r != 0 {
		return "", uint32(r)
	}
	return string(rsp[14 : 14+binary.BigEndian.Uint32(rsp[10:])]), 0
}

// takeOwnership12 returns a function that makes a TPM 1.2 with a storage root key.
func takeOwnership12(t *testing.T) func(state string) {
	return func(state string) {
		t.Helper()
		setup := exec.Command(ours("swtpm-setup"), "--tpmstate", state, "--take-ownership", "--owner-well-known", "--srk-well-known", "--tpm", ours("swtpm")+" socket")
		if code, out, errout := runCmd(t, setup); code != 0 {
			t.Fatalf("%v: %d\n%s%s", setup, code, out, errout)
		}
	}
}

// TestUnseal12 checks that a TPM 1.2 records when sealed data opens, and that swtpm boots explains
// why it does not open any more.
func TestUnseal12(t *testing.T) {
	t.Parallel()
	m := newRecorded(t, v12, false, takeOwnership12(t))
	const secret = "a secret that is sealed"
	measure := func(what string) { m.data.ok(t, "00c1 00000022 00000014 00000004"+strings.Repeat(what, 20)) }
	next := func() {
		if err := m.ctrl.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := m.ctrl.Init(0); err != nil {
			t.Fatal(err)
		}
		m.data.ok(t, m.data.startup())
	}
	measure("11")
	sealed := m.data.seal12(t, 4, secret)
	if got, r := m.data.unseal12(t, sealed); got != secret {
		t.Fatalf("TPM_Unseal: %q, %#x", got, r)
	}
	next()
	measure("22")
	if _, r := m.data.unseal12(t, sealed); r != 24 {
		t.Fatalf("TPM_Unseal after another measurement: %#x, want TPM_WRONGPCRVAL", r)
	}
	if err := m.ctrl.Stop(); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(m.dir, "state")
	awaitEnd(t, state, v12)
	m.says(t, "unsealing failed: TPM_Unseal with a policy over sha1:4: result 0x18")
	out := mustRun(t, ours("swtpm"), "boots", "explain", "--tpmstate", "dir="+state)
	for _, want := range []string{
		"Unsealing over PCR 4 (sha1) has failed since boot 2", "One failure: result 0x18", "It last succeeded in boot 1", "PCR 4, measurement 1: changed",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	noSecrets(t, state, m.Out.String(), secret)
	checkUnseal12(t, lastBoot(state, v12))
}

// checkUnseal12 checks the record of the failure.
func checkUnseal12(t *testing.T, b *ledger.Boot) {
	t.Helper()
	for _, r := range b.Records {
		if r.Kind != ledger.KindPolicy {
			continue
		}
		p, err := r.Policy()
		if err != nil || p.Result != 24 || p.Code != 0x18 || len(p.Banks) != 1 || p.Banks[0].Mask != 1<<4 || len(p.Digests) != 1 {
			t.Errorf("%+v, %v", p, err)
		}
		return
	}
	t.Error("no policy is recorded")
}
