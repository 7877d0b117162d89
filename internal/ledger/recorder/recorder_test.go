package recorder

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/ledger"
	"github.com/swtpm-go/swtpm/internal/safefile"
	"github.com/swtpm-go/swtpm/internal/tpm"
)

// bench is a Recorder and what it has logged.
type bench struct {
	*Recorder
	dir    string
	logged []string
	failed []ledger.Policy
}

func newBench(t *testing.T, boots int) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir()}
	var err error
	b.Recorder, err = New(Options{
		TPM: tpm.V20, Dir: b.dir, Prefix: "tpm2-00", Mode: 0o640, Boots: boots, Engine: "libtpms 0.9.2",
		Handles: func(uint32) int { return 1 },
		Failed:  func(p ledger.Policy) { b.failed = append(b.failed, p) },
		Warn:    func(format string, args ...any) { b.logged = append(b.logged, fmt.Sprintf(format, args...)) },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.Ready()
	return b
}

// values returns the PCR values of a bank after a startup.
func values() []ledger.Bank {
	b := ledger.Bank{Alg: ledger.SHA256, Mask: 1<<ledger.PCRs - 1}
	for range ledger.PCRs {
		b.Values = append(b.Values, make([]byte, 32))
	}
	return []ledger.Bank{b}
}

func (b *bench) start() {
	b.PowerOn([16]byte{1})
	b.put(values())
	b.Startup(0, 0)
}

// put gives the values of the TPM to the Recorder.
func (b *bench) put(banks []ledger.Bank) {
	for _, k := range banks {
		for pcr := range ledger.PCRs {
			if v := k.Value(pcr); v != nil {
				b.Put(k.Alg, pcr, v)
			}
		}
	}
}

// end ends the boot and waits until it is written.
func (b *bench) end() {
	b.End(true)
	b.Wait(time.Minute)
}

func (b *bench) boot(t *testing.T, n uint64) *ledger.Boot {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(b.dir, ledger.Name("tpm2-00", n)))
	if err != nil {
		t.Fatal(err)
	}
	boot, err := ledger.Parse(content)
	if err != nil || boot.Damage != nil {
		t.Fatal(err, boot.Damage)
	}
	return boot
}

// tapped returns an entry of the tap.
func tapped(t *testing.T, cmd, rsp string) []byte {
	t.Helper()
	c, err := hex.DecodeString(strings.ReplaceAll(cmd, " ", ""))
	r, err2 := hex.DecodeString(strings.ReplaceAll(rsp, " ", ""))
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	b := binary.NativeEndian.AppendUint16(nil, uint16(len(c)))
	b = binary.NativeEndian.AppendUint16(b, uint16(len(r)))
	b = binary.NativeEndian.AppendUint16(b, uint16(len(c)))
	b = append(b, 0, 0)
	b = binary.NativeEndian.AppendUint64(b, now())
	return append(append(b, c...), r...)
}

const (
	extended = "8002 00000041 00000182 00000007 00000009 40000009 0000 00 0000 00000001 000b 1111111111111111111111111111111111111111111111111111111111111111"
	fine     = "8002 00000013 00000000"
	begun    = "8001 0000002b 00000176 40000007 40000007 0010 000102030405060708090a0b0c0d0e0f 0000 01 0010 000b"
	opened   = "8001 0000001e 00000000 03000000"
	asked    = "8001 00000018 0000017f 03000000 0000 00000001 000b 03 800000"
	unsealed = "8002 0000001b 0000015e 81000001 00000009 03000000 0000 01 0000"
	refused  = "8001 0000000a 0000099d"
)

// TestLimits checks that a guest that extends for ever fills neither the disk nor the memory,
// and that the values are right nevertheless.
func TestLimits(t *testing.T) {
	b := newBench(t, 16)
	b.start()
	extends := 20_000
	if os.Getenv("SWTPM_TEST_FULL") != "" {
		extends = 1_000_000
	}
	for range extends {
		b.Take(tapped(t, extended, fine))
	}
	b.Take(append(append(tapped(t, begun, opened), tapped(t, asked, fine)...), tapped(t, unsealed, refused)...))
	b.end()
	boot := b.boot(t, 1)
	if len(boot.Records) > ledger.MaxRecords+2*maxSummaries {
		t.Errorf("%d records", len(boot.Records))
	}
	s, joined, err := boot.Replay(nil)
	if err != nil || joined {
		t.Fatal(joined, err)
	}
	want := ledger.NewState()
	want.Set(values())
	rec := ledger.Record{Kind: ledger.KindExtend, Body: ledger.Extend{Index: 7, Digests: []ledger.Digest{{Alg: ledger.SHA256, Value: bytes.Repeat([]byte{0x11}, 32)}}}.Append(nil)}
	for range extends {
		if err := want.Apply(rec); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Check(want.Banks()); err != nil {
		t.Error(err)
	}
	if all, pcrs := b.Failures(); all != 1 || pcrs[7] != 1 || pcrs[8] != 0 || len(b.failed) != 1 {
		t.Errorf("%d failures, %v", all, pcrs)
	}
	if got, want := Describe(tpm.V20, b.failed[0]), "unsealing failed: TPM2_Unseal with a policy over sha256:7: result 0x99d"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestPrune checks that the newest boots stay, and the one in which a policy last succeeded.
func TestPrune(t *testing.T) {
	b := newBench(t, 3)
	for i := range 8 {
		b.start()
		if i < 2 {
			b.Take(append(append(tapped(t, begun, opened), tapped(t, asked, fine)...), tapped(t, unsealed, fine)...))
		}
		b.end()
	}
	names, err := os.ReadDir(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range names {
		got = append(got, n.Name())
	}
	want := "tpm2-00.boot-0002 tpm2-00.boot-0006 tpm2-00.boot-0007 tpm2-00.boot-0008"
	if strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// TestPruneManyPolicies checks that the number of policies that are compared is limited: a guest can make
// thousands of them succeed in each boot.
func TestPruneManyPolicies(t *testing.T) {
	b := newBench(t, 3)
	var w ledger.Writer
	out := w.AppendHeader(nil, ledger.Header{TPM: tpm.V20, Boot: 1, Time: time.Unix(1e9, 0)})
	for i := range uint32(4 * maxKnown) {
		p := ledger.Policy{Code: 0x15e, Banks: []ledger.Bank{{Alg: ledger.SHA256, Mask: i + 1}}}
		out = w.Append(out, ledger.Record{Kind: ledger.KindPolicy, Body: p.Append(nil)})
	}
	d, err := safefile.OpenWith(b.dir, safefile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.WriteFile(filepath.Join(b.dir, ledger.Name("tpm2-00", 1)), out, 0o600); err != nil {
		t.Fatal(err)
	}
	known, found := b.lastGood(d, 1, nil)
	if len(known) != maxKnown || !found {
		t.Errorf("%d policies of boot 1, %v, want %d", len(known), found, maxKnown)
	}
	if again, found := b.lastGood(d, 1, known); len(again) != maxKnown || found {
		t.Errorf("%d policies after a second boot, %v, want %d and none of this boot", len(again), found, maxKnown)
	}
}

// TestContinue checks which boot a TPM that arrived with values continues.
func TestContinue(t *testing.T) {
	other := values()
	other[0].Values[3] = bytes.Repeat([]byte{3}, 32)
	for _, tt := range []struct {
		name   string
		values []ledger.Bank
		same   bool
		damage bool
		boot   uint64
		joined bool
	}{
		{"equal", values(), false, false, 1, false},
		{"changed", other, false, false, 2, true},
		{"restart", other, true, false, 1, true},
		{"damaged", values(), true, true, 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, 16)
			b.start()
			b.Wait(time.Minute)
			if tt.damage {
				name := filepath.Join(b.dir, "tpm2-00.boot-0001")
				content, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(name, content[:len(content)-1], 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b.PowerOn([16]byte{1})
			b.put(tt.values)
			b.Join(tt.same)
			b.Take(tapped(t, extended, fine))
			b.end()
			boot := b.boot(t, tt.boot)
			s, joined, err := boot.Replay(nil)
			if err != nil || joined != tt.joined {
				t.Errorf("joined %t, %v", joined, err)
			}
			if err := s.Check(b.state.Banks()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFailures checks that a directory that cannot be written costs one line for each boot.
func TestFailures(t *testing.T) {
	b := newBench(t, 16)
	b.opt.Dir = filepath.Join(b.dir, "missing")
	for range 2 {
		b.start()
		b.Wait(time.Minute)
		b.Take(tapped(t, extended, fine))
		b.end()
	}
	if len(b.logged) != 2 || !strings.Contains(b.logged[0], "boot ledger not written until the next power-on") {
		t.Errorf("%q", b.logged)
	}
}

// TestSecrets checks that data of NV indexes is recorded as a digest, and that what the engine
// has copied is cleared.
func TestSecrets(t *testing.T) {
	b := newBench(t, 16)
	b.start()
	marker := bytes.Repeat([]byte("secret!!"), 4)
	cmd := "8002 00000045 00000136 01800002 01800002 00000009 40000009 0000 00 0000 0020" + hex.EncodeToString(marker)
	raw := tapped(t, cmd, fine)
	b.Take(raw)
	b.end()
	content, err := os.ReadFile(filepath.Join(b.dir, "tpm2-00.boot-0001"))
	if err != nil || bytes.Contains(content, marker) {
		t.Errorf("the file has the data, %v", err)
	}
	if !bytes.Equal(raw, make([]byte, len(raw))) {
		t.Error("the copies were not cleared")
	}
}

// FuzzTake checks that no copy of a command makes the recorder panic or write a malformed
// record.
func FuzzTake(f *testing.F) {
	f.Add(uint32(0x182), []byte{0, 0, 0, 7})
	f.Add(uint32(0x17f), []byte{3, 0, 0, 0})
	f.Fuzz(func(t *testing.T, code uint32, body []byte) {
		body = body[:min(len(body), 500)]
		for _, v := range []tpm.Version{tpm.V12, tpm.V20} {
			b := newBench(t, 1)
			b.opt.TPM = v
			b.start()
			cmd := hex.EncodeToString(binary.BigEndian.AppendUint32([]byte{0x80, 2, 0, 0, 0, 0}, code)) + hex.EncodeToString(body)
			b.Take(tapped(t, cmd, fine+hex.EncodeToString(body[:min(len(body), 200)])))
			if len(b.logged) > 0 {
				t.Errorf("%q", b.logged)
			}
		}
	})
}
