package e2e_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
)

// resumableTPM is a TPM of a service with a descriptor store, and its clients.
type resumableTPM struct {
	*manager
	dir  string
	v    version
	data *channel
	ctrl *ctrl.Client
}

const keyHex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// newResumable starts one and powers it on; key encrypts its state.
func newResumable(t testing.TB, v version, key bool) *resumableTPM {
	t.Helper()
	return newResumableOff(t, v, key).power(t)
}

// power powers it on.
func (k *resumableTPM) power(t testing.TB) *resumableTPM {
	t.Helper()
	if err := k.ctrl.Init(0); err != nil {
		t.Fatal(err)
	}
	k.data = k.dial(t)
	k.data.ok(t, k.data.startup())
	return k
}

// newResumableOff starts one.
func newResumableOff(t testing.TB, v version, key bool) *resumableTPM {
	t.Helper()
	dir := harness.TempDir(t)
	mkdir(t, filepath.Join(dir, "state"))
	return newResumableIn(t, v, key, dir)
}

// newResumableIn starts one in dir, whose directory state has its state; more are options.
func newResumableIn(t testing.TB, v version, key bool, dir string, more ...string) *resumableTPM {
	t.Helper()
	return newResumableBy(t, v, dir, append(resumableArgs(t, v, key, dir), more...)...)
}

// resumableArgs returns the command line of one in dir.
func resumableArgs(t testing.TB, v version, key bool, dir string) []string {
	t.Helper()
	args := append([]string{"socket", "--tpmstate", "dir=" + filepath.Join(dir, "state"),
		"--ctrl", "type=unixio,path=" + filepath.Join(dir, "c"), "--server", "type=unixio,path=" + filepath.Join(dir, "d")}, v.options()...)
	if key {
		write(t, filepath.Join(dir, "key"), []byte(keyHex))
		args = append(args, "--key", "file="+filepath.Join(dir, "key")+",mode=aes-256-cbc,format=hex")
	}
	return args
}

// newResumableBy starts one in dir with the given arguments.
func newResumableBy(t testing.TB, v version, dir string, args ...string) *resumableTPM {
	t.Helper()
	return (&resumableTPM{manager: newManager(t, args...), dir: dir, v: v}).begin(t)
}

// newResumableOn starts one with its state in the cluster store of h, and powers it on; key
// encrypts the state.
func newResumableOn(t testing.TB, h *clusterHost, v version, key bool, more ...string) *resumableTPM {
	t.Helper()
	dir := harness.TempDir(t)
	args := append(resumableArgs(t, v, key, dir), "--tpmstate", "backend-uri=store://"+filepath.Base(dir)+",allow-plain")
	k := &resumableTPM{manager: newManager(t, append(args, more...)...), dir: dir, v: v}
	k.env = append(k.env, h.env()...)
	return k.begin(t).power(t)
}

// begin starts the process and connects to its control channel.
func (k *resumableTPM) begin(t testing.TB) *resumableTPM {
	t.Helper()
	dir := k.dir
	k.start(t)
	c, err := ctrl.Dial(t.Context(), "unix", filepath.Join(dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = harness.EventTimeout
	t.Cleanup(func() { _ = c.Close() })
	k.ctrl = c
	return k
}

// says waits until the process has written this text, which arrives a moment later.
func (k *resumableTPM) says(t testing.TB, want string) {
	t.Helper()
	if err := harness.Until(func() bool { return strings.Contains(k.Out.String(), want) }); err != nil {
		t.Errorf("it said %q, want %q", k.Out.String(), want)
	}
}

func (k *resumableTPM) dial(t testing.TB) *channel {
	t.Helper()
	conn := connect(t, filepath.Join(k.dir, "d"))
	t.Cleanup(func() { _ = conn.Close() })
	return &channel{conn, k.v}
}

// extend extends PCR 10 by what the number n makes; value is what it has after,
// if it had before before.
func (v version) extend(n uint64, before []byte) (cmd string, value []byte) {
	if v == v12 {
		digest := make([]byte, 20)
		binary.BigEndian.PutUint64(digest, n)
		sum := sha1.Sum(append(bytes.Clone(before), digest...))
		return "00c1 00000022 00000014 0000000a" + hex.EncodeToString(digest), sum[:]
	}
	digest := make([]byte, 32)
	binary.BigEndian.PutUint64(digest, n)
	sum := sha256.Sum256(append(bytes.Clone(before), digest...))
	return "8002 00000041 00000182 0000000a 00000009 40000009 0000 00 0000 00000001 000b" + hex.EncodeToString(digest), sum[:]
}

// pcr reads PCR 10.
func (c *channel) pcr(t testing.TB) []byte {
	t.Helper()
	if c.v == v12 {
		return c.ok(t, "00c1 0000000e 00000015 0000000a")[10:]
	}
	rsp := c.ok(t, "8001 00000014 0000017e 00000001 000b 03 000400")
	return rsp[len(rsp)-32:]
}

// The parts of a volatile state that are visible to a guest.
const (
	policySession = "8001 0000002b 00000176 40000007 40000007 0010 000102030405060708090a0b0c0d0e0f 0000 01 0010 000b"
	policyCommand = "8001 00000012 0000016c %08x 0000015e" // TPM2_PolicyCommandCode
	policyDigest  = "8001 0000000e 00000189 %08x"
	flushContext  = "8001 0000000e 00000165 %08x"
	sequence      = "8001 0000000e 00000186 0000 000b" // TPM2_HashSequenceStart, SHA-256
	sequenceAdd   = "8002 00000020 0000015c %08x 00000009 40000009 0000 00 0000 0003 616263"
	sequenceEnd   = "8002 00000021 0000013e %08x 00000009 40000009 0000 00 0000 0000 40000007"
	resetPCR20    = "8002 0000001b 0000013d 00000014 00000009 40000009 0000 00 0000" // at locality 2

	oiap         = "00c1 0000000a 0000000a"
	flushSession = "00c1 00000012 000000ba %08x 00000002"
	sha1Start12  = "00c1 0000000a 000000a0"
	sha1Add12    = "00c1 0000004e 000000a1 00000040" // and 64 bytes
	sha1End12    = "00c1 0000000e 000000a2 00000000"
)

// fill creates a volatile state, and returns a function that checks that it still exists.
func (k *resumableTPM) fill(t testing.TB) (check func()) {
	t.Helper()
	c := k.data
	cmd, value := k.v.extend(1, c.pcr(t))
	c.ok(t, cmd)
	pcr := func() {
		t.Helper()
		if got := c.pcr(t); !bytes.Equal(got, value) {
			t.Errorf("PCR 10 is %x, want %x", got, value)
		}
	}
	if k.v == v12 {
		return k.fill12(t, pcr)
	}
	session := binary.BigEndian.Uint32(c.ok(t, policySession)[10:])
	c.ok(t, fmt.Sprintf(policyCommand, session))
	digest := c.ok(t, fmt.Sprintf(policyDigest, session))
	object := binary.BigEndian.Uint32(c.ok(t, sequence)[10:])
	c.ok(t, fmt.Sprintf(sequenceAdd, object))
	if err := k.ctrl.HashStart(); err != nil { // sets the established bit
		t.Fatal(err)
	}
	if err := k.ctrl.HashEnd(); err != nil {
		t.Fatal(err)
	}
	if err := k.ctrl.SetLocality(2); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		pcr()
		if got := c.ok(t, fmt.Sprintf(policyDigest, session)); !bytes.Equal(got, digest) {
			t.Errorf("the policy session has %x, want %x", got, digest)
		}
		c.ok(t, fmt.Sprintf(flushContext, session))
		want := sha256.Sum256([]byte("abc"))
		if got := c.ok(t, fmt.Sprintf(sequenceEnd, object)); !bytes.Contains(got, want[:]) {
			t.Errorf("the hash sequence gives %x, want %x in it", got, want)
		}
		if bit, err := k.ctrl.Established(); err != nil || !bit {
			t.Errorf("the established bit is %t, %v; want true", bit, err)
		}
		c.ok(t, resetPCR20)
		if err := k.ctrl.SetLocality(0); err != nil {
			t.Error(err)
		}
		if rsp, err := c.transmit(resetPCR20); err != nil || result(rsp) != 0x907 {
			t.Errorf("at locality 0: %x, %v; want TPM_RC_LOCALITY", rsp, err)
		}
	}
}

// fill12 begins an OIAP session and a SHA-1 for fill.
func (k *resumableTPM) fill12(t testing.TB, pcr func()) (check func()) {
	t.Helper()
	c := k.data
	session := binary.BigEndian.Uint32(c.ok(t, oiap)[10:])
	block := bytes.Repeat([]byte{7}, 64)
	c.ok(t, sha1Start12)
	c.ok(t, sha1Add12+hex.EncodeToString(block))
	return func() {
		t.Helper()
		want := sha1.Sum(block)
		if rsp := c.ok(t, sha1End12); !bytes.Equal(rsp[10:], want[:]) {
			t.Errorf("the SHA-1 that was under way is %x, want %x", rsp[10:], want)
		}
		pcr()
		c.ok(t, fmt.Sprintf(flushSession, session))
	}

}

func everyResumable(t *testing.T, f func(t *testing.T, v version, key bool)) {
	for _, v := range both {
		for _, key := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s key=%t", v, key), func(t *testing.T) {
				t.Parallel()
				f(t, v, key)
			})
		}
	}
}
