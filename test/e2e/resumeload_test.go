package e2e_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
)

// TestResumeUnderLoad checks that a client under load gets a response to each command, success or
// failure, whenever the process is killed or restarted, and that each response is still true
// afterwards.
func TestResumeUnderLoad(t *testing.T) {
	t.Parallel()
	everyResumable(t, func(t *testing.T, v version, key bool) { resumeUnderLoad(t, newResumable(t, v, key), killsOf(v)) })
	h := newClusterHost(t)
	for _, v := range both {
		t.Run("store "+string(v), func(t *testing.T) {
			t.Parallel()
			kills := killsOf(v)
			if v == v12 && os.Getenv(fullVar) == "" {
				kills = 2
			}
			resumeUnderLoad(t, newResumableOn(t, h, v, v == v20), kills)
		})
	}
}

// killsOf returns how often resumeUnderLoad ends a process.
func killsOf(v version) int {
	if v == v12 {
		return 8 // each start tests the TPM itself
	}
	return 30
}

// resumeUnderLoad ends the process again and again while a client sends commands.
func resumeUnderLoad(t *testing.T, k *resumableTPM, kills int) {
	v := k.v
	k.data.define(t)
	value, n, number, writes := k.data.pcr(t), uint64(0), uint64(1), 1
	failed := 0
	done := make(chan struct{})
	go k.endOften(t, kills, done) // meanwhile the client goes on
	fail := func(rsp []byte) bool { return len(rsp) == 10 && (result(rsp) == 0x101 || result(rsp) == 9) }
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		n++
		cmd, after := v.extend(n, value)
		rsp, err := k.data.transmit(cmd)
		if err != nil {
			t.Fatalf("extend %d: %v; it said:\n%s", n, err, k.Out.String())
		}
		if fail(rsp) {
			failed++
		} else if result(rsp) != 0 {
			t.Fatalf("extend %d: result %#x", n, result(rsp))
		}
		got := pcrUntilAnswered(t, k.data)
		switch {
		case bytes.Equal(got, after):
			value = after
		case !fail(rsp) || !bytes.Equal(got, value):
			t.Fatalf("extend %d: answered %x; PCR 10 is %x, was %x, want %x", n, rsp, got, value, after)
		}
		if v == v12 && writes >= maxWrites12-4 {
			continue
		}
		writes++
		if err := k.data.bump(number + 1); err != nil && !strings.Contains(err.Error(), "result 0x101") && !strings.Contains(err.Error(), "result 0x9") {
			t.Fatalf("bump: %v", err)
		} else if err == nil {
			number++
		} else if now := numberUntilAnswered(t, k.data); now != number && now != number+1 {
			t.Fatalf("the number is %d, was %d", now, number)
		} else {
			number = now
		}
	}
	if now := numberUntilAnswered(t, k.data); now != number {
		t.Errorf("the number is %d, want %d", now, number)
	}
	if bit, err := k.ctrl.Established(); err != nil {
		t.Errorf("the control client: %t, %v", bit, err)
	}
	t.Logf("%d commands, %d of which were answered that they failed", n, failed)
}

// endOften restarts and kills the process, and closes done.
func (k *resumableTPM) endOften(t testing.TB, kills int, done chan<- struct{}) {
	defer close(done)
	for i := range kills {
		time.Sleep(time.Duration(rand.Int64N(int64(20 * time.Millisecond))))
		if i%5 == 4 {
			k.restart(t)
		} else {
			k.crash(t, unix.SIGKILL)
		}
	}
}

// pcrUntilAnswered asks again if the process was killed meanwhile.
func pcrUntilAnswered(t testing.TB, c *channel) []byte {
	t.Helper()
	for {
		cmd := "8001 00000014 0000017e 00000001 000b 03 000400"
		if c.v == v12 {
			cmd = "00c1 0000000e 00000015 0000000a"
		}
		rsp, err := c.transmit(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if result(rsp) == 0 {
			size := 32
			if c.v == v12 {
				size = 20
			}
			return rsp[len(rsp)-size:]
		}
		if result(rsp) != 0x101 && result(rsp) != 9 {
			t.Fatalf("result %#x", result(rsp))
		}
	}
}

func numberUntilAnswered(t testing.TB, c *channel) uint64 {
	t.Helper()
	for {
		cmd, at := read20, 16
		if c.v == v12 {
			cmd, at = read12, 14
		}
		rsp, err := c.transmit(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if result(rsp) == 0 {
			return binary.BigEndian.Uint64(rsp[at:])
		}
		if result(rsp) != 0x101 && result(rsp) != 9 {
			t.Fatalf("result %#x", result(rsp))
		}
	}
}

// sendKilled sends what QEMU sends of a guest that comes, with f after the n-th blob.
// It goes on as long as QEMU would.
func sendKilled(k *resumableTPM, bags luggage, n int, f func(*resumableTPM)) error {
	if err := k.ctrl.Stop(); err != nil {
		return err
	}
	for i, p := range bags {
		if err := k.ctrl.SetState(p.kind, p.flags, p.blob); err != nil {
			return err
		}
		if i+1 == n {
			f(k)
		}
	}
	return k.ctrl.Init(ctrl.InitDeleteVolatile)
}
