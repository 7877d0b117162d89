package e2e_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// keptTPM is a TPM of a service with a descriptor store, and its clients.
type keptTPM struct {
	*manager
	dir  string
	v    version
	data *channel
	ctrl *ctrl.Client
}

const keyHex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// newKept starts one and powers it on; key encrypts its state.
func newKept(t testing.TB, v version, key bool) *keptTPM {
	t.Helper()
	return newKeptOff(t, v, key).power(t)
}

// power powers it on.
func (k *keptTPM) power(t testing.TB) *keptTPM {
	t.Helper()
	if err := k.ctrl.Init(0); err != nil {
		t.Fatal(err)
	}
	k.data = k.dial(t)
	k.data.ok(t, k.data.startup())
	return k
}

// newKeptOff starts one.
func newKeptOff(t testing.TB, v version, key bool) *keptTPM {
	t.Helper()
	dir := harness.TempDir(t)
	mkdir(t, filepath.Join(dir, "state"))
	return newKeptIn(t, v, key, dir)
}

// newKeptIn starts one in dir, whose directory state has its state; more are options.
func newKeptIn(t testing.TB, v version, key bool, dir string, more ...string) *keptTPM {
	t.Helper()
	return newKeptBy(t, v, dir, append(keptArgs(t, v, key, dir), more...)...)
}

// keptArgs returns the command line of one in dir.
func keptArgs(t testing.TB, v version, key bool, dir string) []string {
	t.Helper()
	args := append([]string{"socket", "--tpmstate", "dir=" + filepath.Join(dir, "state"),
		"--ctrl", "type=unixio,path=" + filepath.Join(dir, "c"), "--server", "type=unixio,path=" + filepath.Join(dir, "d")}, v.options()...)
	if key {
		write(t, filepath.Join(dir, "key"), []byte(keyHex))
		args = append(args, "--key", "file="+filepath.Join(dir, "key")+",mode=aes-256-cbc,format=hex")
	}
	return args
}

// newKeptBy starts one in dir with the given arguments.
func newKeptBy(t testing.TB, v version, dir string, args ...string) *keptTPM {
	t.Helper()
	k := &keptTPM{manager: newManager(t, args...), dir: dir, v: v}
	k.start(t)
	c, err := ctrl.Dial(t.Context(), "unix", filepath.Join(dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = harness.Patience
	t.Cleanup(func() { _ = c.Close() })
	k.ctrl = c
	return k
}

// says wants the process to say so, which reaches us a moment later.
func (k *keptTPM) says(t testing.TB, want string) {
	t.Helper()
	if err := harness.Until(func() bool { return strings.Contains(k.Out.String(), want) }); err != nil {
		t.Errorf("it said %q, want %q", k.Out.String(), want)
	}
}

func (k *keptTPM) dial(t testing.TB) *channel {
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

// The parts of a volatile state that a guest can see.
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

// fill gives the TPM a volatile state and returns a check that it still exists.
func (k *keptTPM) fill(t testing.TB) (check func()) {
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
func (k *keptTPM) fill12(t testing.TB, pcr func()) (check func()) {
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

func everyKept(t *testing.T, f func(t *testing.T, v version, key bool)) {
	for _, v := range both {
		for _, key := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s key=%t", v, key), func(t *testing.T) {
				t.Parallel()
				f(t, v, key)
			})
		}
	}
}

// An orderly restart takes nothing away from connected clients, however often, and
// neither does a crash.
func TestKeep(t *testing.T) {
	t.Parallel()
	everyKept(t, func(t *testing.T, v version, key bool) {
		k := newKept(t, v, key)
		for _, next := range []func(){
			func() { k.restart(t) },
			func() { k.crash(t, unix.SIGKILL) },
			func() { k.restart(t); k.restart(t) },
			func() { k.crash(t, unix.SIGSEGV) },
			func() { k.crash(t, unix.SIGKILL); k.restart(t) },
		} {
			check := k.fill(t)
			next()
			check()
			if said := k.Out.String(); strings.Contains(said, "starting fresh") {
				t.Errorf("it said %s", said)
			}
		}
		k.dial(t).alive(t) // the socket exists, too
		names := strings.Join(k.Names(t), " ")
		if want := "swtpm-state swtpm-listen-ctrl swtpm-listen-data swtpm-ctrl-0 swtpm-data-1"; !strings.HasPrefix(names, want) {
			t.Errorf("kept are %s, want %s", names, want)
		}
		_ = k.data.Close()
		if err := harness.Until(func() bool { return !strings.Contains(strings.Join(k.Names(t), " "), "swtpm-data-1") }); err != nil {
			t.Errorf("the connection of a client that has gone: %v", err)
		}
	})
}

// After a stop, which drops what is kept, the TPM is one that was shut down well.
func TestKeepStop(t *testing.T) {
	t.Parallel()
	k := newKept(t, v20, false)
	k.data.ok(t, define20)
	k.end(t)
	k.Clear()
	k.start(t)
	if _, err := k.data.transmit(random20); err == nil {
		t.Error("the connection is still there")
	}
	c := k.dial(t)
	if rsp, err := c.transmit(random20); err != nil || result(rsp) != 0x101 {
		t.Errorf("a TPM that has no power: %x, %v", rsp, err)
	}
	ctrl, err := ctrl.Dial(t.Context(), "unix", filepath.Join(k.dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	defer ctrl.Close()
	if err := ctrl.Init(0); err != nil {
		t.Fatal(err)
	}
	c.ok(t, startup20)
	// TPM_PT_STARTUP_CLEAR, bit 31: orderly.
	rsp := c.ok(t, "8001 00000016 0000017a 00000006 00000201 00000001")
	if binary.BigEndian.Uint32(rsp[len(rsp)-4:])>>31 != 1 {
		t.Errorf("the end was not orderly: %x", rsp)
	}
}

// Random numbers do not come twice.
func TestKeepRandom(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			k := newKept(t, v, false)
			random := "8001 0000000c 0000017b 0010"
			if v == v12 {
				random = "00c1 0000000e 00000046 00000010"
			}
			k.data.ok(t, random)
			copy1 := k.memory(t) // what a crash before the next command's snapshot leaves
			first := k.data.ok(t, random)
			_ = k.Cmd.Process.Kill()
			k.Wait(t)
			if _, err := unix.Pwrite(k.FD("swtpm-state"), copy1, 0); err != nil {
				t.Error(err)
			}
			k.start(t)
			if second := k.data.ok(t, random); bytes.Equal(first, second) {
				t.Errorf("the same random bytes twice: %x", second)
			}
		})
	}
}

// TestKeepSecrets checks that the memory reveals nothing of an encrypted TPM.
func TestKeepSecrets(t *testing.T) {
	t.Parallel()
	everyKept(t, func(t *testing.T, v version, key bool) {
		k := newKept(t, v, key)
		cmd, _ := v.extend(1, k.data.pcr(t))
		k.data.ok(t, cmd)
		value := k.data.pcr(t)
		if plain := bytes.Contains(k.memory(t), value); plain == key {
			t.Errorf("the value of a PCR is in the memory: %t, with a key: %t", plain, key)
		}
		if err := k.ctrl.Stop(); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(k.memory(t), value) {
			t.Error("the value of a PCR is in the memory of a TPM without power")
		}
		k.crash(t, unix.SIGKILL)
		if rsp, err := k.data.transmit(random20); err != nil || result(rsp) != 0x101 && result(rsp) != 9 {
			t.Errorf("a TPM that has no power: %x, %v", rsp, err)
		}
	})
}

// A state that replaced the TPM's own does not get the volatile
// state of the latter.
func TestKeepOtherState(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			other := makeState(t, v)
			k := newKept(t, v, false)
			_ = k.Cmd.Process.Kill()
			k.Wait(t)
			write(t, filepath.Join(k.dir, "state", v.file()), other)
			k.start(t)
			if rsp, err := k.data.transmit(random20); err != nil || result(rsp) != 0x101 && result(rsp) != 9 {
				t.Errorf("a TPM that has no power: %x, %v", rsp, err)
			}
			const want = "starting fresh: another process has changed the permanent state"
			k.says(t, want)
			if err := k.ctrl.Init(0); err != nil {
				t.Fatal(err)
			}
			k.data.ok(t, k.data.startup())
			if n := k.data.number(t); n != 1 {
				t.Errorf("the number is %d, want 1", n)
			}
		})
	}
}

// A client under load gets an answer to each command, the right one or that it
// failed, whenever the process is killed or restarted; and each response is true
// afterwards.
func TestKeepUnderLoad(t *testing.T) {
	t.Parallel()
	everyKept(t, func(t *testing.T, v version, key bool) { keepUnderLoad(t, v, key) })
}

// keepUnderLoad ends the process again and again while a client sends commands.
func keepUnderLoad(t *testing.T, v version, key bool) {
	kills := 30
	if v == v12 {
		kills = 8 // each start tests the TPM itself
	}
	k := newKept(t, v, key)
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
func (k *keptTPM) endOften(t testing.TB, kills int, done chan<- struct{}) {
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

// A service that is restarted or killed while a migration brings its state has the
// migration fail: the incoming state ended with the process, and no other TPM
// is started or made in its place. The guest is on the other host still, and comes
// when everything is sent again.
func TestKeepIncoming(t *testing.T) {
	t.Parallel()
	src := start(t, setup{tpm: v20})
	g := moveIn(t, src, v20)
	bags := src.pack(t, true)
	if len(bags) != 2 {
		t.Fatalf("%d blobs, want 2", len(bags))
	}
	ends := map[string]func(*keptTPM){
		"restart": func(k *keptTPM) { k.restart(t) },
		"crash":   func(k *keptTPM) { k.crash(t, unix.SIGKILL) },
		"both":    func(k *keptTPM) { k.crash(t, unix.SIGKILL); k.restart(t) },
	}
	for name, end := range ends {
		for _, had := range []bool{false, true} { // a TPM of its own
			for after := 1; after <= len(bags); after++ {
				k := newKeptOff(t, v20, false)
				var own []byte
				if had {
					own = makeState(t, v20)
					write(t, filepath.Join(k.dir, "state", v20.file()), own)
				}
				err := sendKilled(k, bags, after, end)
				k.wantLost(t, fmt.Sprintf("%s after blob %d, a TPM there: %t", name, after, had), err, own)
				k.comes(t, bags, g)
			}
		}
	}
}

// The same with the end in INIT, before and after the state is on disk.
func TestKeepIncomingInit(t *testing.T) {
	needRoot(t, "strace traces it")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	src := start(t, setup{tpm: v20})
	g := moveIn(t, src, v20)
	bags := src.pack(t, true)
	for _, call := range []string{"write", "renameat"} {
		k := newKeptOff(t, v20, false)
		state := filepath.Join(k.dir, "state")
		var s *harness.Process
		back := make(chan bool)
		err := sendKilled(k, bags, len(bags), func(k *keptTPM) {
			s = harness.Start(t, exec.Command(strace, "-f", "-o", "/dev/null", "-p", strconv.Itoa(k.Cmd.Process.Pid),
				"-P", state, "-P", filepath.Join(state, "TMP2-00.permall"), "-e", "inject="+call+":signal=KILL"))
			if err := harness.Until(func() bool { return s.Ended() || strings.Contains(s.Out.String(), " attached") }); err != nil || s.Ended() {
				t.Fatalf("strace: %s", s.Out.String())
			}
			first := k.Process
			go func() { defer close(back); <-first.Done; k.start(t) }()
		})
		<-back
		s.Wait(t)
		k.wantLost(t, "killed at "+call, err, nil)
		k.comes(t, bags, g)
	}
}

// sendKilled sends what QEMU sends of a guest that comes, with f after the n-th blob.
// It goes on as long as QEMU would.
func sendKilled(k *keptTPM, bags luggage, n int, f func(*keptTPM)) error {
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

// wantLost wants a migration to have failed with err, no TPM to be on, and the
// state to be as it was, nil if there was none.
func (k *keptTPM) wantLost(t *testing.T, what string, err error, was []byte) {
	t.Helper()
	if tpm.ResultOf(err) != tpm.Fail {
		t.Errorf("%s: %v, want %v", what, err, tpm.Fail)
	}
	if rsp, err := k.dial(t).transmit(random20); err != nil || result(rsp) != 0x101 {
		t.Errorf("%s: %x, %v; want a TPM that is off", what, rsp, err)
	}
	if err := k.ctrl.Init(0); tpm.ResultOf(err) != tpm.Fail {
		t.Errorf("%s: INIT: %v, want %v", what, err, tpm.Fail)
	}
	if now, _ := os.ReadFile(filepath.Join(k.dir, "state", v20.file())); !bytes.Equal(now, was) {
		t.Errorf("%s: there is a state of %d bytes, want %d", what, len(now), len(was))
	}
	k.says(t, "the state from the control channel was lost in a restart of the service")
}

// comes sends the guest again.
func (k *keptTPM) comes(t *testing.T, bags luggage, g guest) {
	t.Helper()
	if err := sendKilled(k, bags, 0, nil); err != nil {
		t.Fatalf("%v; it said:\n%s", err, k.Out.String())
	}
	c := k.dial(t)
	if n, pcr := c.number(t), pcrValue(c.ok(t, readPCR[v20])); n != g.number || pcr != g.pcr {
		t.Errorf("the number is %d and PCR 10 %s, want %d and %s", n, pcr, g.number, g.pcr)
	}
	k.end(t)
}

// A state with which the engine has ended the process five times is given up: the TPM
// starts anew with its permanent state. Four times are no reason to.
func TestKeepGivenUp(t *testing.T) {
	t.Parallel()
	everyKept(t, func(t *testing.T, v version, key bool) {
		k := newKept(t, v, key)
		k.data.define(t)
		cmd, value := v.extend(1, k.data.pcr(t))
		k.data.ok(t, cmd)
		crashed := func(times byte) {
			t.Helper()
			_ = k.Cmd.Process.Kill()
			k.Wait(t)
			const resumes = 64 + 8 // emul.Cells
			if _, err := unix.Pwrite(k.FD("swtpm-state"), []byte{times, 0, 0, 0}, resumes); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			crashed(4)
			k.start(t)
			if got := k.data.pcr(t); !bytes.Equal(got, value) {
				t.Fatalf("PCR 10 is %x, want %x; it said %s", got, value, k.Out.String())
			}
		}
		crashed(5)
		k.start(t)
		const want = "starting fresh: the engine ended the process 5 times when it started with the saved state"
		k.says(t, want)
		if rsp, err := k.data.transmit(random20); err != nil || result(rsp) != 0x101 && result(rsp) != 9 {
			t.Errorf("a TPM that has no power: %x, %v", rsp, err)
		}
		if err := k.ctrl.Init(0); err != nil {
			t.Fatal(err)
		}
		k.data.ok(t, k.data.startup())
		if n := k.data.number(t); n != 1 {
			t.Errorf("the number is %d, want 1", n)
		}
		if got := k.data.pcr(t); !bytes.Equal(got, make([]byte, len(value))) {
			t.Errorf("PCR 10 is %x after power on", got)
		}
		k.crash(t, unix.SIGKILL) // which is kept again
		if n := k.data.number(t); n != 1 {
			t.Errorf("the number is %d, want 1", n)
		}
	})
}

// newStarting is a service that powers its TPM on by itself; its flags are the last
// of its arguments.
func newStarting(t *testing.T, v version, seed []byte, flags string) *keptTPM {
	t.Helper()
	dir := harness.TempDir(t)
	state := filepath.Join(dir, "state")
	mkdir(t, state)
	if seed != nil {
		write(t, filepath.Join(state, v.file()), seed)
	}
	args := append([]string{"socket", "--tpmstate", "dir=" + state, "--pid", "file=" + filepath.Join(dir, "pid"),
		"--server", "type=unixio,path=" + filepath.Join(dir, "d")}, v.options()...)
	return &keptTPM{dir: dir, v: v, manager: newManager(t, append(args, "--flags", flags)...)}
}

// answers wants the result of a command, now and after a crash.
func (k *keptTPM) answers(t *testing.T, want uint32) {
	t.Helper()
	c := k.dial(t)
	random := map[version]string{v12: "00c1 0000000e 00000046 00000010", v20: random20}[k.v]
	for _, when := range []string{"at first", "after a crash"} {
		if rsp, err := c.transmit(random); err != nil || result(rsp) != want {
			t.Errorf("%s: %x, %v; want the result %#x; it said:\n%s", when, rsp, err, want, k.Out.String())
		}
		k.crash(t, unix.SIGKILL)
	}
	k.end(t)
}

// A process that is to power its TPM on by itself is killed on the way, at each step
// that it takes on disk: the guest finds a TPM that had its startup.
func TestKeepStartup(t *testing.T) {
	needRoot(t, "strace traces it")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, typ := range []string{"clear", "state"} {
		var seed []byte
		if typ == "state" {
			seed = makeState(t, v20) // its end was orderly
		}
		for _, call := range []string{"write", "renameat"} {
			t.Run(typ+" "+call, func(t *testing.T) {
				t.Parallel()
				n := 1
				for killedAtStartup(t, strace, typ, seed, call, n) {
					n++
				}
				if n == 1 {
					t.Errorf("no %s on the way", call)
				}
			})
		}
	}
}

// killedAtStartup is false if there is no n-th call on the way.
func killedAtStartup(t *testing.T, strace, typ string, seed []byte, call string, n int) bool {
	t.Helper()
	k := newStarting(t, v20, seed, "startup-"+typ)
	state := filepath.Join(k.dir, "state")
	k.trace = []string{strace, "-f", "-o", "/dev/null", "-P", state, "-P", filepath.Join(state, "TMP2-00.permall"),
		"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n)}
	k.env = append(k.env, "GOMAXPROCS=1") // strace counts by thread
	if k.tryStart(t) {
		pid, err := strconv.Atoi(strings.TrimSpace(harness.Read(t, filepath.Join(k.dir, "pid"))))
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Kill(pid, unix.SIGKILL)
		k.Wait(t) // strace ends with it
		return false
	}
	if strings.Contains(k.Out.String(), "ptrace") {
		t.Skipf("strace may not trace here: %s", k.Out.String())
	}
	k.trace = nil
	k.start(t)
	k.answers(t, 0)
	return true
}

// The same for a process that was killed between power on and startup, where a TPM
// 1.2 stores nothing: its memory says that it has served no client.
func TestKeepBeforeStartup(t *testing.T) {
	t.Parallel()
	for _, g := range []struct {
		v     version
		flags string
		ready bool
		want  uint32
	}{
		{v20, "startup-clear", false, 0},
		{v20, "startup-clear", true, 0x100}, // TPM_RC_INITIALIZE: who has power on and no startup wants it so
		{v12, "startup-clear", false, 0},
		{v12, "startup-deactivated", false, 6}, // TPM_DEACTIVATED
		{v12, "startup-clear", true, 38},       // TPM_INVALID_POSTINIT
	} {
		t.Run(fmt.Sprintf("%s %s %t", g.v, g.flags, g.ready), func(t *testing.T) {
			t.Parallel()
			k := newStarting(t, g.v, nil, "not-need-init")
			k.start(t)
			_ = k.Cmd.Process.Kill()
			k.Wait(t)
			if !g.ready {
				const ready = 64 + 12 // of package keep's memory: the cells, the fourth of them
				if _, err := unix.Pwrite(k.FD("swtpm-state"), make([]byte, 4), ready); err != nil {
					t.Error(err)
				}
			}
			k.args[len(k.args)-1] = g.flags
			k.start(t)
			k.answers(t, g.want)
		})
	}
}

// A newer libtpms goes on with the TPM of an older one, and the older one with what
// the newer one has left of it. make newer has the newer one.
func TestKeepUpgrade(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("SWTPM_NEWER_LIBTPMS")
	if dir == "" {
		t.Skip("$SWTPM_NEWER_LIBTPMS is not set: run make newer")
	}
	loaders, _ := filepath.Glob(filepath.Join(dir, "root/usr/lib/*/ld-linux-*.so.*"))
	if len(loaders) != 1 {
		t.Fatalf("no dynamic loader below %s/root", dir)
	}
	everyKept(t, func(t *testing.T, v version, key bool) {
		k := newKept(t, v, key)
		for _, wrap := range [][]string{{loaders[0], "--library-path", filepath.Dir(loaders[0])}, nil} {
			check := k.fill(t)
			k.wrap = wrap
			k.restart(t)
			if newer := strings.Contains(harness.Read(t, fmt.Sprintf("/proc/%d/maps", k.Cmd.Process.Pid)), dir); newer != (wrap != nil) {
				t.Fatalf("the newer library is in use: %t", newer)
			}
			check()
		}
	})
}
