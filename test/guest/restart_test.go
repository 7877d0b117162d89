package guest_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// The data of a guest in its TPM other than PCRs and NV memory.
const (
	createECC     = "8002 0000003f 00000131 40000001 00000009 40000009 0000 00 0000 0004 0000 0000 0016 0023 000b 00040072 0000 0010 0010 0003 0010 0000 0000 0000 00000000"
	sign          = "8002 00000049 0000015d %08x 00000009 40000009 0000 00 0000 0020 %064x 0018 000b 8024 40000007 0000"
	readPublic    = "8001 0000000e 00000173 %08x"
	saveContext   = "8001 0000000e 00000162 %08x"
	loadContext   = "8001 %08x 00000161 %x"
	flushContext  = "8001 0000000e 00000165 %08x"
	policySession = "8001 0000002b 00000176 40000007 40000007 0010 000102030405060708090a0b0c0d0e0f 0000 01 0010 000b"
	policyCommand = "8001 00000012 0000016c %08x 0000015e"
	policyDigest  = "8001 0000000e 00000189 %08x"

	oiap         = "00c1 0000000a 0000000a"
	flushSession = "00c1 00000012 000000ba %08x 00000002"
)

// fill gives the TPM a loaded key, a saved one and a session. It returns a check
// that they still exist.
func fill(t *testing.T, v *machine, m model) (check func()) {
	t.Helper()
	handle := func(rsp []byte) uint32 { return binary.BigEndian.Uint32(rsp[10:]) }
	if !m.tpm2 {
		session := handle(v.tpm(t, oiap))
		return func() {
			t.Helper()
			v.tpm(t, fmt.Sprintf(flushSession, session))
			session = handle(v.tpm(t, oiap))
		}
	}
	key := handle(v.tpm(t, createECC))
	public := v.tpm(t, fmt.Sprintf(readPublic, key))
	saved := v.tpm(t, fmt.Sprintf(saveContext, key))[10:]
	session := handle(v.tpm(t, policySession))
	v.tpm(t, fmt.Sprintf(policyCommand, session))
	digest := v.tpm(t, fmt.Sprintf(policyDigest, session))
	return func() {
		t.Helper()
		if got := v.tpm(t, fmt.Sprintf(readPublic, key)); !bytes.Equal(got, public) {
			t.Errorf("the key is %x, want %x", got, public)
		}
		v.tpm(t, fmt.Sprintf(sign, key, 1))
		loaded := handle(v.tpm(t, fmt.Sprintf(loadContext, 10+len(saved), saved)))
		if got := v.tpm(t, fmt.Sprintf(readPublic, loaded)); !bytes.Equal(got, public) {
			t.Errorf("the saved key is %x, want %x", got, public)
		}
		v.tpm(t, fmt.Sprintf(flushContext, loaded))
		if got := v.tpm(t, fmt.Sprintf(policyDigest, session)); !bytes.Equal(got, digest) {
			t.Errorf("the session has %x, want %x", got, digest)
		}
	}
}

// extended is a PCR of value before after extend.
func (m model) extended(t *testing.T, before string) string {
	t.Helper()
	b, err := hex.DecodeString(before)
	if err != nil {
		t.Fatal(err)
	}
	if m.tpm2 {
		sum := sha256.Sum256(append(b, bytes.Repeat([]byte{0x22}, 32)...))
		return hex.EncodeToString(sum[:])
	}
	sum := sha1.Sum(append(b, bytes.Repeat([]byte{0x11}, 20)...))
	return hex.EncodeToString(sum[:])
}

// TestRestart checks that a service that is killed or restarted under a running kernel costs it
// nothing: the driver's next command succeeds, PCRs, keys and sessions exist, and random numbers
// still come from the TPM.
func TestRestart(t *testing.T) {
	for _, m := range []model{models[0], models[2]} {
		t.Run(m.String(), func(t *testing.T) {
			need(t, "qemu-system-x86_64", "qemu-system-x86")
			s := startService(t, m.tpm2, harness.TempDir(t))
			v := startMachine(t, m, s.emulator, newDisk(t))
			v.booted(t)
			g := moveIn(t, v, m)
			check := fill(t, v, m)
			for i, end := range []unix.Signal{unix.SIGKILL, unix.SIGTERM, unix.SIGKILL, unix.SIGKILL} {
				if i == 3 { // while the kernel may be waiting for a response, which may say that it failed
					v.asked++
					if _, err := fmt.Fprintf(v.serial, "busy%d bytes 4096 /dev/hwrng\n", i); err != nil {
						t.Fatal(err)
					}
				}
				s.again(t, end)
				if i == 3 {
					v.await(t, fmt.Sprintf("> busy%d ", i))
				}
				g.isIn(t, v)
				check()
				want := m.extended(t, g.pcr)
				if g.extend(t, v); g.pcr != want {
					t.Errorf("PCR 12 is %s, want %s", g.pcr, want)
				}
				g.increase(t, v)
			}
			v.findsTPM(t, m)
			if log := harness.Read(t, s.log); strings.Contains(log, "starting fresh") {
				t.Errorf("it did not go on:\n%s", log)
			}
			g.reset(t, v)
			g.isIn(t, v)
			v.quit(t, s.emulator)
		})
	}
}
