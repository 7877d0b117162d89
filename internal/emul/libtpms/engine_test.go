package libtpms_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/swtpm-go/swtpm/internal/emul"
	"github.com/swtpm-go/swtpm/internal/emul/libtpms"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestStartup checks the results of commands while the TPM is off, before and after a Startup.
func TestStartup(t *testing.T) {
	for v := range versions {
		x := newTPM(t, newDisk(), emul.Options{Version: v})
		getRandom := harness.Unhex("8001 0000000c 0000017b 0010")
		if v == tpm.V12 {
			getRandom = harness.Unhex("00c1 0000000e 00000046 00000010")
		}
		if got := code(run(t, x, append([]byte(nil), getRandom...))); got != tpm.Fail && got != tpm.RCFailure {
			t.Errorf("TPM %s: a command while off = %v", v, got)
		}
		powerOn(t, x)
		one, two := run(t, x, append([]byte(nil), getRandom...)), run(t, x, append([]byte(nil), getRandom...))
		if code(one) != 0 || len(one) < 26 || string(one) == string(two) {
			t.Errorf("TPM %s: GetRandom = %x, then %x, want random bytes", v, one, two)
		}
		if err := x.Stop(); err != nil || x.On() {
			t.Errorf("TPM %s: Stop() = %v, On() = %v", v, err, x.On())
		}
		powerOn(t, x)
		if err := x.Close(); err != nil {
			t.Errorf("TPM %s: Close() = %v", v, err)
		}
	}
}

// TestVersionAndInfo checks the version of libtpms, the information about a TPM and the size of
// its buffers.
func TestVersionAndInfo(t *testing.T) {
	if v := libtpms.Version(); strings.Count(v, ".") != 2 {
		t.Errorf("Version() = %q, want three numbers", v)
	}
	for v := range versions {
		x := newTPM(t, newDisk(), emul.Options{Version: v})
		for flags, want := range map[uint64]string{0: "{}", 1: `"family":"` + v.String() + `"`, 2: `"manufacturer":"id:00001014"`, 1 << 40: "{}"} {
			if got, err := x.Info(flags); err != nil || !strings.Contains(got, want) {
				t.Errorf("TPM %s: Info(%#x) = %q, %v, want %q in it", v, flags, got, err, want)
			}
		}
		low := map[tpm.Version]uint32{tpm.V12: 3072, tpm.V20: 2808}[v]
		size, mn, mx, err := x.BufferSize(1)
		if err != nil || size != mn || mn < low || mx != tpm.MaxCommand {
			t.Errorf("TPM %s: BufferSize(1) = %d of %d to %d, %v", v, size, mn, mx, err)
		}
		if size, _, _, err := x.BufferSize(1 << 20); err != nil || size != tpm.MaxCommand {
			t.Errorf("TPM %s: BufferSize(1 MiB) = %d, %v", v, size, err)
		}
		_ = x.Close()
	}
}

// TestHash measures from locality 4 and checks the tpmEstablished bit.
func TestHash(t *testing.T) {
	for v := range versions {
		x := started(t, newDisk(), v)
		established := func(want bool, when string) {
			t.Helper()
			if got, err := x.Established(); err != nil || got != want {
				t.Errorf("TPM %s: Established() %s = %v, %v, want %v", v, when, got, err, want)
			}
		}
		established(false, "at first")
		for _, f := range []func() error{x.HashStart, func() error { return x.HashData(nil) },
			func() error { return x.HashData(make([]byte, 100000)) }, x.HashEnd} {
			if err := f(); err != nil {
				t.Errorf("TPM %s: hash: %v", v, err)
			}
		}
		established(true, "after the hash")
		for l := tpm.Locality(0); l <= 4; l++ {
			err := x.ResetEstablished(l)
			if good := l >= 3; good != (err == nil) || !good && !errors.Is(err, tpm.BadLocality) {
				t.Errorf("TPM %s: ResetEstablished(%d) = %v", v, l, err)
			}
			established(l < 3, "after the reset")
		}
		_ = x.Close()
	}
}

// TestHashWithoutStart ends a hash that was not begun, which puts a TPM 1.2 into failure mode.
func TestHashWithoutStart(t *testing.T) {
	x := started(t, newDisk(), tpm.V12)
	if err := x.HashEnd(); tpm.ResultOf(err) != 0x1A {
		t.Errorf("HashEnd() = %v, want TPM_SHA_THREAD", err)
	}
	powerOn(t, x)
	if err := x.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := x.Init(false); err != nil {
		t.Fatal(err)
	}
	if err := x.HashStart(); tpm.ResultOf(err) != tpm.InvalidPostInit {
		t.Errorf("HashStart() before TPM_Startup = %v, want TPM_INVALID_POSTINIT", err)
	}
	_ = x.Close()
}

// TestPrefixLocality checks that TPM2_Startup is refused at locality 4 and allowed at 3.
func TestPrefixLocality(t *testing.T) {
	x := newTPM(t, newDisk(), emul.Options{Version: tpm.V20})
	if err := x.Init(false); err != nil {
		t.Fatal(err)
	}
	for _, g := range []struct{ locality, want string }{{"04", "00000907"}, {"03", "00000000"}} {
		rsp, err := x.Execute(harness.Unhex("00000008" + g.locality + "0000000c 8001 0000000c 00000144 0000"))
		if err != nil || string(rsp) != string(harness.Unhex("0000000a 8001 0000000a"+g.want+"00000000")) {
			t.Errorf("TPM2_Startup at locality %s = %x, %v, want code %s", g.locality, rsp, err, g.want)
		}
	}
	if err := x.SetLocality(0); err != nil {
		t.Fatal(err)
	}
	_ = x.Close()
}

// TestStoreFails checks that a full disk makes the command fail, and that the error has the cause.
func TestStoreFails(t *testing.T) {
	full := errors.New("no space left on device")
	for v := range versions {
		d := newDisk()
		d.broken = full
		x := newTPM(t, d, emul.Options{Version: v})
		if err := x.Init(false); err == nil || !errors.Is(err, full) || x.On() {
			t.Errorf("TPM %s: Init() on a full disk = %v, On() = %v, want the cause", v, err, x.On())
		}
		d.broken = nil
		powerOn(t, x)
		_ = x.Close()
	}

	d := newDisk()
	x := started(t, d, tpm.V20)
	define(t, x, 0x01800001, tpm2.TPMANV{AuthRead: true, AuthWrite: true, NoDA: true})
	write(t, x, 0x01800001, "good")
	d.broken = full
	if err := tryWrite(x, 0x01800001, "lost"); err == nil {
		t.Error("NV_Write on a full disk succeeds")
	}
	d.broken = nil
	powerOn(t, x) // out of failure mode
	if got := read(t, x, 0x01800001); got != "good" {
		t.Errorf("NV_Read after a failed write = %q, want %q", got, "good")
	}
	_ = x.Close()
}

// TestBlockedStore checks that these are answered while a store blocks.
func TestBlockedStore(t *testing.T) {
	d := newDisk()
	x := started(t, d, tpm.V20)
	define(t, x, 0x01800001, tpm2.TPMANV{AuthRead: true, AuthWrite: true, NoDA: true})
	d.gate.Lock()
	d.waiting = make(chan bool, 10)
	written := make(chan error, 1)
	go func() { written <- tryWrite(x, 0x01800001, "slow") }()
	<-d.waiting

	answered := make(chan bool)
	go func() {
		defer close(answered)
		if bit, err := x.Established(); bit || err != nil {
			t.Errorf("Established() = %v, %v", bit, err)
		}
		x.Keys()
		x.On()
		if size, _, _, err := x.BufferSize(0); size != tpm.MaxCommand || err != nil {
			t.Errorf("BufferSize(0) = %d, %v", size, err)
		}
		if err := x.SetLocality(0); err != nil {
			t.Errorf("SetLocality(0) = %v", err)
		}
		if err := x.Cancel(); err != nil {
			t.Errorf("Cancel() = %v", err)
		}
	}()
	select {
	case <-answered:
	case <-time.After(patience):
		t.Fatal("no answer while a store blocks")
	}
	select {
	case err := <-written:
		t.Errorf("NV_Write = %v before it was stored", err)
	default:
	}
	d.gate.Unlock()
	if err := <-written; err != nil {
		t.Errorf("NV_Write = %v", err)
	}
	_ = x.Close()
}

// TestCancel checks that a key generation can be cancelled.
func TestCancel(t *testing.T) {
	x := started(t, newDisk(), tpm.V20)
	for range 100 { // it may come too early, or too late
		done := make(chan bool)
		go func() {
			for {
				select {
				case <-done:
					return
				default:
					if err := x.Cancel(); err != nil {
						t.Errorf("Cancel() = %v", err)
						return
					}
					time.Sleep(time.Millisecond)
				}
			}
		}()
		_, err := createPrimary(t, x)
		close(done)
		if errors.Is(err, tpm2.TPMRCCanceled) {
			_ = x.Close()
			return
		}
		if err != nil {
			t.Fatalf("CreatePrimary = %v, want TPM_RC_CANCELED or success", err)
		}
	}
	t.Error("100 key generations were all finished")
	_ = x.Close()
}

// TestDictionaryAttackCounter checks the lockout counter after many power cycles without a
// TPM2_Shutdown of the guest, each with an authorization that counts.
func TestDictionaryAttackCounter(t *testing.T) {
	for _, off := range []bool{false, true} {
		x := newTPM(t, newDisk(), emul.Options{Version: tpm.V20, NoAutoShutdown: off})
		powerOn(t, x)
		define(t, x, 0x01800001, tpm2.TPMANV{AuthRead: true, AuthWrite: true}) // counts
		write(t, x, 0x01800001, "once")
		cycles := 40
		if off {
			cycles = 2
		}
		for range cycles {
			powerOn(t, x)
			if got := read(t, x, 0x01800001); got != "once" {
				t.Fatalf("NV_Read = %q, want %q", got, "once")
			}
		}
		powerOn(t, x)
		if n := property(t, x, tpm2.TPMPTLockoutCounter); (n > 0) != off {
			t.Errorf("no automatic TPM2_Shutdown: %v: lockout counter = %d after %d power cycles", off, n, cycles)
		}
		_ = x.Close()
	}
}

// TestNoFileOfItsOwn checks that libtpms never falls back to files of its own.
func TestNoFileOfItsOwn(t *testing.T) {
	t.Chdir(t.TempDir())
	for v := range versions {
		x := started(t, newDisk(), v)
		_ = x.Close()
	}
	if e, err := os.ReadDir("."); err != nil || len(e) > 0 {
		t.Errorf("in the working directory are %v, %v, want nothing", e, err)
	}
}
