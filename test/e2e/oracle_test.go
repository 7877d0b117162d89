package e2e_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// container returns a blob: a header of that version and flags, and body.
func container(version byte, flags uint16, body []byte) []byte {
	b := []byte{version, 1, 0, 10}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, uint32(10+len(body)))
	return append(b, body...)
}

// results hands over each blob and returns how often each result came.
func results(t *testing.T, c *ctrl.Client, blobs [][]byte) map[tpm.Result]int {
	t.Helper()
	seen := map[tpm.Result]int{}
	for _, b := range blobs {
		err := c.SetState(tpm.Permanent, 0, b)
		r, ok := errors.AsType[tpm.Result](err)
		if !ok {
			t.Fatalf("SET_STATEBLOB: %v, want a result", err)
		}
		seen[r]++
	}
	return seen
}

// TestBlobsAreNoOracle checks that a control client without the migration key learns nothing from
// SET_STATEBLOB: every change of a blob gets the same result.
func TestBlobsAreNoOracle(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		e := start(t, setup{tpm: v, nodata: true, args: []string{"--migration-key", stateKeys["aes-128"]}})
		c := e.control(t)
		if err := c.Init(0); err != nil {
			t.Fatal(err)
		}
		blob, _, err := c.State(tpm.Permanent, false)
		if err == nil {
			err = c.Stop()
		}
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(7, 11))
		noise := func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			return b
		}
		var first, second [][]byte
		for range 1500 {
			// The last cipher block follows one whose last byte takes all values:
			// one in 256 of these has good padding.
			first = append(first, container(1, 6, append(noise(16), blob[16:32]...)))
			b := slices.Clone(blob)
			copy(b[16+r.IntN(4)*16:], noise(16))
			second = append(second, b)
		}
		if seen := results(t, c, first); len(seen) != 1 || seen[tpm.BadVersion] == 0 {
			t.Errorf("TPM %s: version 1: results %v, want %v alone", v, seen, tpm.BadVersion)
		}
		if seen := results(t, c, second); len(seen) != 1 || seen[tpm.DecryptError] == 0 {
			t.Errorf("TPM %s: version 2: results %v, want %v alone", v, seen, tpm.DecryptError)
		}
		if err := c.SetState(tpm.Permanent, 0, blob); err != nil {
			t.Errorf("TPM %s: the blob itself: %v", v, err)
		}
		e.terminate(t)
	}
}

// TestEncryptedOnly checks that a plain blob is accepted with a line in the log, as a
// snapshot from before there was a key, and refused if the administrator says so.
func TestEncryptedOnly(t *testing.T) {
	t.Parallel()
	key := []string{"--migration-key", stateKeys["aes-128"]}
	old := start(t, setup{tpm: v20, nodata: true})
	blob := func(e *emulator) []byte {
		c := e.control(t)
		if err := c.Init(0); err != nil {
			t.Fatal(err)
		}
		b, _, err := c.State(tpm.Permanent, false)
		if err == nil {
			err = c.Stop()
		}
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain := blob(old)
	e := start(t, setup{tpm: v20, nodata: true, args: key})
	if err := e.control(t).SetState(tpm.Permanent, 0, plain); err != nil {
		t.Errorf("a plain blob: %v", err)
	}
	if log := harness.Read(t, e.log); !strings.Contains(log, "accepted without encryption by the migration key") {
		t.Errorf("no line on the plain blob:\n%s", log)
	}
	sealed := blob(e)
	e = start(t, setup{tpm: v20, nodata: true, args: append(key, "--migration", "encrypted-only")})
	c := e.control(t)
	for name, b := range map[string][]byte{"plain": plain, "empty": nil, "header": container(2, 4, nil)} {
		if r, ok := errors.AsType[tpm.Result](c.SetState(tpm.Volatile, 0, b)); !ok || r != tpm.DecryptError {
			t.Errorf("%s blob with encrypted-only: %v, want %v", name, r, tpm.DecryptError)
		}
	}
	if err := c.SetState(tpm.Permanent, 0, sealed); err != nil {
		t.Errorf("an encrypted blob: %v", err)
	}
}

// TestVersion1File checks that a start refuses an encrypted file without a MAC, names the verb
// that converts it, and accepts the converted file.
func TestVersion1File(t *testing.T) {
	t.Parallel()
	from := "../../internal/seal/testdata/state/synth-tpm2-v1-key128/"
	dir, key := harness.TempDir(t), "file="+from+"keyfile.hex"
	for _, name := range []string{"tpm2-00.permall", "tpm2-00.volatilestate"} {
		write(t, filepath.Join(dir, name), []byte(harness.Read(t, from+name)))
	}
	before := harness.Read(t, filepath.Join(dir, "tpm2-00.permall"))

	e := start(t, setup{tpm: v20, state: dir, args: []string{"--key", key}})
	if err := e.control(t).Init(0); err == nil {
		t.Error("INIT with an encrypted file of version 1: success")
	}
	if log := harness.Read(t, e.log); !strings.Contains(log, "swtpm state rekey --accept-version-1") {
		t.Errorf("the log does not name the verb:\n%s", log)
	}
	e.Kill(t)

	at := []string{"--tpmstate", "dir=" + dir, "--key", key}
	for _, verb := range [][]string{{"verify"}, {"export", "--sealed", filepath.Join(dir, "archive")}, {"rekey", "--no-key"}} {
		code, _, stderr := run(t, slices.Concat([]string{"state"}, verb[:1], at, verb[1:])...)
		if code == 0 || !strings.Contains(stderr, "--accept-version-1") {
			t.Errorf("swtpm state %s: exit code %d, %q; want one that names --accept-version-1", verb[0], code, stderr)
		}
	}
	if harness.Read(t, filepath.Join(dir, "tpm2-00.permall")) != before {
		t.Error("a verb that was refused has changed the state")
	}
	out := mustState(t, append([]string{"rekey", "--accept-version-1"}, at...)...)
	if !strings.Contains(out, "encrypted with the key, AES-128") {
		t.Errorf("swtpm state rekey: %q", out)
	}
	mustState(t, append([]string{"verify"}, at...)...)
	if got, err := pcr10At(t, ours("swtpm"), v20, at...); err != nil || got != "5910329febe6ab0ab0ed1a0f64a0e70b5167d580" {
		t.Errorf("PCR 10 = %s, %v", got, err)
	}
	out = mustState(t, append([]string{"rekey", "--accept-version-1"}, at...)...)
	if !strings.Contains(out, "already") {
		t.Errorf("the second swtpm state rekey: %q", out)
	}
}
