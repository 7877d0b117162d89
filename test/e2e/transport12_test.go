package e2e_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/test/harness"
)

// establish opens an exclusive transport session without encryption.
//
// Source: TPM Main Part 3, 24.1; Part 2, 13.
func (c *channel) establish(t *testing.T) auth12 {
	t.Helper()
	const exclusive, handle = 4, "40000003"
	secret := strings.Repeat("5a", 20)
	rsp := c.ok(t, fmt.Sprintf("00c1 00000032 000000e6 %s 001e %08x 00000001 0001 00000014", handle, exclusive)+secret)
	key, _ := hex.DecodeString(secret)
	return auth12{rsp[10:14], rsp[len(rsp)-20:], key}
}

// extendInside extends a PCR in a transport session, which stays open.
//
// Source: TPM Main Part 3, 24.2.
func (c *channel) extendInside(t *testing.T, a *auth12, pcr int) {
	t.Helper()
	ordinal := []byte{0, 0, 0, 0x14}
	data := append(binary.BigEndian.AppendUint32(nil, uint32(pcr)), odd...)
	wrapped := append(append([]byte{0, 0xc1, 0, 0, 0, 34}, ordinal...), data...)
	size := binary.BigEndian.AppendUint32(nil, uint32(len(wrapped)))
	digest := sha1Of([]byte{0, 0, 0, 0xe7}, size, sha1Of(ordinal, data))
	open := []byte{1}
	rsp := c.send12(t, 0xc2, 0xe7, size, wrapped, a.handle, odd, open, hmac12(a.secret, digest, a.even, odd, open))
	if result(rsp) != 0 {
		t.Fatalf("TPM_ExecuteTransport: %#x", result(rsp))
	}
	const inner = 10 + 8 + 4 + 4 // ticks, locality, size of the wrapped response
	if r := result(rsp[inner:]); r != 0 {
		t.Fatalf("TPM_Extend in a transport session: %#x", r)
	}
	a.even = rsp[len(rsp)-41 : len(rsp)-21]
}

// joins returns how often the values of the TPM replace the recorded ones in a boot.
func joins(b *ledger.Boot) (n int) {
	for _, r := range b.Records {
		if r.Kind == ledger.KindValues && r.Body[0] == ledger.Joined {
			n++
		}
	}
	return n
}

// TestLedgerTransport12 checks that measurements in a transport session of a TPM 1.2 are in the values of the ledger before
// the next measurement, that recording them does not end an exclusive session, and that a boot
// that begins with a saved state has its values.
func TestLedgerTransport12(t *testing.T) {
	t.Parallel()
	m := &measured{resumableTPM: newRecorded(t, v12, false, takeOwnership12(t)), did: map[string]int{}}
	state := filepath.Join(m.dir, "state")
	extend := func(pcr int) { m.data.ok(t, fmt.Sprintf("00c1 00000022 00000014 %08x", pcr)+strings.Repeat("11", 20)) }
	extend(3)
	session := m.data.establish(t)
	for i := range 2 {
		m.data.extendInside(t, &session, 4)
		if err := harness.Until(func() bool { b := lastBoot(state, v12); return b != nil && joins(b) == i+1 }); err != nil {
			t.Fatalf("the values after measurement %d in the session are not recorded: %v; log:\n%s", i+1, err, m.Out.String())
		}
	}
	extend(4)
	want := m.pcrs(t)
	m.data.ok(t, "00c1 0000000a 00000098") // TPM_SaveState
	if err := m.ctrl.Stop(); err != nil {
		t.Fatal(err)
	}
	b, joined := m.endedBoot(t, want)
	if n := joins(b); !joined || n != 2 {
		t.Errorf("boot %d is joined %d times, want 2; log:\n%s", b.Boot, n, m.Out.String())
	}
	m.boot = b.Boot

	if err := m.ctrl.Init(0); err != nil {
		t.Fatal(err)
	}
	m.data.ok(t, "00c1 0000000c 00000099 0002") // TPM_Startup, state
	extend(5)
	want = m.pcrs(t)
	if err := m.ctrl.Stop(); err != nil {
		t.Fatal(err)
	}
	b, joined = m.endedBoot(t, want)
	if r := b.Records[0]; joined || r.Kind != ledger.KindStartup || r.Body[1] != 1 {
		t.Errorf("the boot with the saved state begins with %+v, joined = %v", r, joined)
	}
}
