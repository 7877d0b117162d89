package emul

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestExecute checks every message that the front end answers or changes.
func TestExecute(t *testing.T) {
	all := Options{}
	for _, g := range []struct {
		name     string
		v        tpm.Version
		on       bool
		opt      Options
		in, want string
		took     string
		locality tpm.Locality
	}{
		{"off, 1.2", tpm.V12, false, all, "00c1 0000000a 00000065", "00c4 0000000a 00000009", "", 0},
		{"off, 2.0", tpm.V20, false, all, "8001 0000000a 0000017a", "8001 0000000a 00000101", "", 0},
		{"off, one byte", tpm.V20, false, all, "00", "8001 0000000a 00000101", "", 0},
		{"off, prefix", tpm.V20, false, all, "00000008 02 0000000a 8001 0000000a 0000017a", "0000000a 8001 0000000a 00000101 00000000", "", 2},
		{"off, prefix with locality 9", tpm.V20, false, all, "00000008 09 0000000a 8001 0000000a 0000017a", "0000000a 8001 0000000a 00000101 00000000", "", 0},
		{"on", tpm.V20, true, all, "8001 0000000a 0000017a", "8001 0000000a 00000000", "Process(0000000a0000017a)", 0},
		{"on, sessions", tpm.V20, true, all, "8002 0000000a 0000017a", "8001 0000000a 00000000", "Process(0000000a0000017a)", 0},
		{"on, short, 1.2", tpm.V12, true, all, "00c1 0000000a", "00c4 0000000a 00000019", "", 0},
		{"on, short, 2.0", tpm.V20, true, all, "8001 0000000a", "8001 0000000a 0000009a", "", 0},
		{"prefix", tpm.V20, true, all, "00000008 03 0000000a 8001 0000000a 0000017a", "0000000a 8001 0000000a 00000000 00000000", "Process(0000000a0000017a)", 3},
		{"prefix, locality 4", tpm.V20, true, all, "00000008 04 ffffffff 8001 0000000a 0000017a", "0000000a 8001 0000000a 00000000 00000000", "Process(0000000a0000017a)", 4},
		{"prefix, locality 4 rejected", tpm.V20, true, Options{RejectLocality4: true}, "00000008 04 ffffffff 8001 0000000a 0000017a", "0000000a 8001 0000000a 00000107 00000000", "", 0},
		{"prefix, locality 9", tpm.V20, true, all, "00000008 09 0000000a 8001 0000000a 0000017a", "0000000a 8001 0000000a 00000107 00000000", "", 0},
		{"prefix, short", tpm.V20, true, all, "00000008 01 00000001 80", "0000000a 8001 0000000a 0000009a 00000000", "", 1},
		{"prefix alone", tpm.V20, true, all, "00000008 01 00000001", "8001 0000000a 0000009a", "", 0},
		{"number 7", tpm.V20, true, all, "00000007 03 0000000a 80", "8001 0000000a 00000000", "Process(000703000000" + "0a80)", 0},
		{"prefix, 1.2", tpm.V12, true, all, "00000008 03 0000000a 00", "8001 0000000a 00000000", "Process(000803000000" + "0a00)", 0},

		{"vendor, not allowed", tpm.V20, true, all, "8001 0000000b 20001000 03", "8001 0000000a 00000101", "", 0},
		{"vendor, not allowed, 1.2", tpm.V12, true, all, "00c1 0000000b 20001000 03", "00c4 0000000a 00000009", "", 0},
		{"vendor", tpm.V20, true, Options{AllowSetLocality: true}, "8001 0000000b 20001000 03", "8001 0000000a 00000000", "", 3},
		{"vendor, 1.2", tpm.V12, true, Options{AllowSetLocality: true}, "00c1 0000000b 20001000 03", "00c4 0000000a 00000000", "", 3},
		{"vendor, wrong tag", tpm.V20, true, Options{AllowSetLocality: true}, "1234 00000000 20001000 01", "8001 0000000a 00000000", "", 1},
		{"vendor, short", tpm.V20, true, Options{AllowSetLocality: true}, "8001 0000000a 20001000", "8001 0000000a 0000009a", "", 0},
		{"vendor, short, 1.2", tpm.V12, true, Options{AllowSetLocality: true}, "00c1 0000000a 20001000", "00c4 0000000a 00000019", "", 0},
		{"vendor, 5", tpm.V20, true, Options{AllowSetLocality: true}, "8001 0000000b 20001000 05", "8001 0000000a 00000107", "", 0},
		{"vendor, 5, 1.2", tpm.V12, true, Options{AllowSetLocality: true}, "00c1 0000000b 20001000 05", "00c4 0000000a 0000003d", "", 0},
		{"vendor, 4 rejected", tpm.V20, true, Options{AllowSetLocality: true, RejectLocality4: true}, "8001 0000000b 20001000 04", "8001 0000000a 00000107", "", 0},
		{"vendor behind a prefix", tpm.V20, true, Options{AllowSetLocality: true}, "00000008 01 0000000b 8001 0000000b 20001000 02", "0000000a 8001 0000000a 00000000 00000000", "", 2},
		{"vendor, off", tpm.V20, false, Options{AllowSetLocality: true}, "8001 0000000b 20001000 03", "8001 0000000a 00000101", "", 0},
	} {
		g.opt.Version = g.v
		b := newBench(t, g.opt)
		if g.on {
			b.on(t)
		}
		if got, want := hex.EncodeToString(b.run(t, harness.Unhex(g.in))), strings.ReplaceAll(g.want, " ", ""); got != want {
			t.Errorf("%s: Execute(%s) = %s, want %s", g.name, g.in, got, want)
		}
		if got := b.e.took(); got != g.took {
			t.Errorf("%s: engine calls = %q, want %q", g.name, got, g.took)
		}
		if b.e.locality != g.locality {
			t.Errorf("%s: locality = %d, want %d", g.name, b.e.locality, g.locality)
		}
	}
}

// TestLastCode checks which commands count as the guest's last one.
func TestLastCode(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	b.run(t, tpm.Shutdown(0))
	b.run(t, header(tpm.TagNoSessions, tpm.VendorSetLocality)) // refused, but sent
	if b.e.last != tpm.VendorSetLocality {
		t.Errorf("last code = %#x, want %#x", b.e.last, tpm.VendorSetLocality)
	}
	b.run(t, []byte{1, 2, 3}) // no command
	if b.e.last != tpm.VendorSetLocality {
		t.Errorf("last code after half a header = %#x, want %#x", b.e.last, tpm.VendorSetLocality)
	}
	b.run(t, tpm.Shutdown(0))
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	b.run(t, header(tpm.TagNoSessions, 0x17b)) // off: does not count
	if b.e.last != tpm.TPM2Shutdown {
		t.Errorf("last code after a command while off = %#x, want %#x", b.e.last, tpm.TPM2Shutdown)
	}
}

// TestNoResponse checks that the process continues after an engine returned no response.
func TestNoResponse(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	b.e.mute = errors.New("out of memory")
	for _, in := range []string{"8001 0000000a 0000017a", "00000008 01 0000000a 8001 0000000a 0000017a"} {
		rsp, err := b.Execute(harness.Unhex(in))
		if rsp != nil || err != nil {
			t.Errorf("Execute(%s) = %x, %v, want neither", in, rsp, err)
		}
	}
	if len(*b.notes) != 2 {
		t.Errorf("notes = %q, want a line each", *b.notes)
	}
}

// TestNoneWaits checks that these are answered while a command runs.
func TestNoneWaits(t *testing.T) {
	b := newBench(t, Options{}).on(t)
	b.e.Lock() // as a command that runs
	done := make(chan bool)
	go func() {
		defer close(done)
		if _, err := b.Established(); err != nil {
			t.Errorf("Established: %v", err)
		}
		if err := b.SetLocality(2); err != nil {
			t.Errorf("SetLocality: %v", err)
		}
		if err := b.Cancel(); err != nil {
			t.Errorf("Cancel: %v", err)
		}
		if size, low, high, err := b.BufferSize(0); size != 4096 || low != 1000 || high != 4096 || err != nil {
			t.Errorf("BufferSize(0) = %d, %d, %d, %v", size, low, high, err)
		}
		if _, _, _, err := b.BufferSize(2000); !errors.Is(err, tpm.BadOrdinal) {
			t.Errorf("BufferSize(2000) while on = %v, want TPM_BAD_ORDINAL", err)
		}
		b.Keys()
		b.On()
		b.Version()
	}()
	<-done
	b.e.Unlock()
}

// TestOff checks the requests that need power.
func TestOff(t *testing.T) {
	b := newBench(t, Options{})
	for name, f := range map[string]func() error{
		"Established":      func() error { _, err := b.Established(); return err },
		"ResetEstablished": func() error { return b.ResetEstablished(3) },
		"HashStart":        b.HashStart,
		"HashData":         func() error { return b.HashData([]byte{1}) },
		"HashEnd":          b.HashEnd,
		"Cancel":           b.Cancel,
		"StoreVolatile":    b.StoreVolatile,
		"State":            func() error { _, _, err := b.State(tpm.Permanent, false); return err },
	} {
		if err := f(); !errors.Is(err, tpm.BadOrdinal) {
			t.Errorf("%s while off = %v, want TPM_BAD_ORDINAL", name, err)
		}
	}
	if got := b.e.took(); got != "" {
		t.Errorf("engine calls while off = %q, want none", got)
	}
	if size, _, _, err := b.BufferSize(2000); size != 2000 || err != nil {
		t.Errorf("BufferSize(2000) while off = %d, %v", size, err)
	}
	for l, want := range map[tpm.Locality]error{0: nil, 4: nil, 5: tpm.BadLocality, 255: tpm.BadLocality} {
		if err := b.SetLocality(l); !errors.Is(err, want) {
			t.Errorf("SetLocality(%d) = %v, want %v", l, err, want)
		}
	}
	if err := newBench(t, Options{RejectLocality4: true}).SetLocality(4); !errors.Is(err, tpm.BadLocality) {
		t.Errorf("SetLocality(4) with reject-locality-4 = %v, want TPM_BAD_LOCALITY", err)
	}
	if err := b.on(t).ResetEstablished(5); !errors.Is(err, tpm.BadLocality) {
		t.Errorf("ResetEstablished(5) = %v, want TPM_BAD_LOCALITY", err)
	}
}

// FuzzExecute checks that any message gets a response in the form of the request.
func FuzzExecute(f *testing.F) {
	f.Add(header(tpm.TagNoSessions, 0x17a), true)
	f.Add(append([]byte{0, 0, 0, 8, 1, 0, 0, 0, 10}, header(tpm.TagNoSessions, 0x17a)...), true)
	f.Add(header(tpm.TagNoSessions, tpm.VendorSetLocality), false)
	f.Fuzz(func(t *testing.T, raw []byte, on bool) {
		if len(raw) == 0 || len(raw) > tpm.MaxMessage {
			return
		}
		b := newBench(t, Options{AllowSetLocality: true})
		if on {
			b.on(t)
		}
		prefixed := len(raw) >= 10 && raw[0]|raw[1]|raw[2] == 0 && raw[3] == 8
		rsp := b.run(t, raw)
		if prefixed {
			n := len(rsp)
			if n != 18 || string(rsp[:4]) != "\x00\x00\x00\x0a" || string(rsp[n-4:]) != "\x00\x00\x00\x00" {
				t.Fatalf("Execute(%x) = %x, want a response in its frame", raw, rsp)
			}
			rsp = rsp[4 : n-4]
		}
		if h, ok := tpm.ParseHeader(rsp); !ok || int(h.Size) != len(rsp) || h.Tag != tpm.TagNoSessions {
			t.Fatalf("Execute(%x) = %x, want a response", raw, rsp)
		}
		if b.e.locality > tpm.MaxLocality {
			t.Fatalf("Execute(%x): locality = %d", raw, b.e.locality)
		}
	})
}
