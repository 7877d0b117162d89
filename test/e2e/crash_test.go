package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

// TestKillLosesNothingAcknowledged checks that kill -9 loses no acknowledged number. The number
// may be one higher, because a command without a response may have taken effect.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	for _, k := range everyKeeping(t) {
		for _, v := range both {
			t.Run(fmt.Sprint(k, " ", v), func(t *testing.T) {
				t.Parallel()
				const kills = 5
				tpms := 1 // TestStoreFaults kills at each system call, these kills come at any time
				switch {
				case os.Getenv(fullVar) != "":
					tpms = 5
				case v == v20:
					tpms = 3
				}
				for range tpms { // a TPM 1.2 without owner can be written 64 times
					killLoop(t, k, v, kills)
				}
			})
		}
	}
}

func killLoop(t *testing.T, k keeping, v version, kills int) {
	t.Helper()
	state := k.place(t)
	e := start(t, k.at(v, state))
	ch := e.power(t, v)
	ch.define(t)
	acknowledged := ch.number(t)
	for kill := range kills {
		// The kill comes in the middle of the bumps, each time a little later.
		// The disk decides how long a bump takes, so the first one is measured.
		begin := time.Now()
		if err := ch.bump(acknowledged + 1); err != nil {
			t.Fatal(err)
		}
		acknowledged++
		later := time.Since(begin) * time.Duration(3+4*kill) / 4
		timer := time.AfterFunc(later, func() { _ = e.Cmd.Process.Kill() })
		sent := acknowledged
		for last := acknowledged + maxWrites12/uint64(kills) - 4; sent < last; {
			sent++
			if ch.bump(sent) != nil {
				break
			}
			acknowledged = sent
		}
		timer.Stop()
		e.Kill(t)
		e = start(t, k.at(v, state))
		ch = e.power(t, v)
		got := ch.number(t)
		if got != acknowledged && got != sent {
			t.Fatalf("after kill %d: the number is %d, want at least %d, which was acknowledged, and at most %d, which was sent", kill, got, acknowledged, sent)
		}
		acknowledged = got
	}
	e.Kill(t)
}

// fill writes a file until there is no room for another byte.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for size := 4096; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// TestTerminateDuringKeyGeneration checks SIGTERM while a key is generated: the client gets its response, the
// process exits with 0 and removes its socket and pid file, and the state starts.
func TestTerminateDuringKeyGeneration(t *testing.T) {
	t.Parallel()
	state := harness.TempDir(t)
	pid := filepath.Join(state, "pid")
	e := start(t, setup{tpm: v20, state: state, args: []string{"--pid", "file=" + pid}})
	ch := e.power(t, v20)
	ch.define(t)

	// TPM2_CreatePrimary of an RSA-2048 signing key takes far longer than it takes
	// to send a signal; the processor time that the emulator uses shows that it runs.
	const create = "8002 00000041 00000131 40000001 00000009 40000009 0000 00 0000 0004 0000 0000" +
		"0018 0001 000b 00040072 0000 0010 0014 000b 0800 00000000 0000 0000 00000000"
	cmd, err := fromHex(create)
	if err != nil {
		t.Fatal(err)
	}
	before := cpuTime(t, e.Cmd.Process.Pid)
	if _, err := ch.Write(cmd); err != nil {
		t.Fatal(err)
	}
	busy(t, e, before)
	if err := e.Cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rsp, err := ch.response()
	if err != nil {
		t.Fatal(err)
	}
	if result(rsp) != 0 || len(rsp) < 300 {
		t.Errorf("response of %d bytes, result %#x; want a key", len(rsp), result(rsp))
	}
	if code := e.Wait(t); code != 0 {
		t.Errorf("exit code %d, want 0; log:\n%s", code, harness.Read(t, e.log))
	}
	for _, path := range []string{pid, e.data, e.ctrl} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s exists, want it removed", path)
		}
	}
	e = start(t, setup{tpm: v20, state: state})
	if n := e.power(t, v20).number(t); n != 1 {
		t.Errorf("the number is %d, want 1", n)
	}
}

// busy waits until the emulator has used a millisecond of processor time since before. The search
// for a key may be over within a clock tick.
func busy(t *testing.T, e *emulator, before time.Duration) {
	t.Helper()
	if err := harness.Until(func() bool { return cpuTime(t, e.Cmd.Process.Pid) >= before+time.Millisecond }); err != nil {
		t.Fatalf("the emulator has used %v of processor time, want a millisecond at least", cpuTime(t, e.Cmd.Process.Pid)-before)
	}
}
