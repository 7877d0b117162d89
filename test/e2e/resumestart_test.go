package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestResumeIncoming checks that a migration fails if the service at the destination is restarted
// or killed while blobs arrive: the incoming state is lost, and no other TPM is started or
// created. The guest is still on the source, and arrives when everything is sent again.
func TestResumeIncoming(t *testing.T) {
	t.Parallel()
	src := start(t, setup{tpm: v20})
	g := moveIn(t, src, v20)
	bags := src.pack(t, true)
	if len(bags) != 2 {
		t.Fatalf("%d blobs, want 2", len(bags))
	}
	ends := map[string]func(*resumableTPM){
		"restart": func(k *resumableTPM) { k.restart(t) },
		"crash":   func(k *resumableTPM) { k.crash(t, unix.SIGKILL) },
		"both":    func(k *resumableTPM) { k.crash(t, unix.SIGKILL); k.restart(t) },
	}
	for name, end := range ends {
		for _, had := range []bool{false, true} { // a TPM of its own
			for after := 1; after <= len(bags); after++ {
				k := newResumableOff(t, v20, false)
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

// TestResumeIncomingInit checks the same for an end during INIT, before and after the state is on
// disk.
func TestResumeIncomingInit(t *testing.T) {
	needRoot(t, "strace traces it")
	strace := harness.Need(t, "strace", "strace")
	t.Parallel()
	src := start(t, setup{tpm: v20})
	g := moveIn(t, src, v20)
	bags := src.pack(t, true)
	for _, call := range []string{"write", "renameat"} {
		k := newResumableOff(t, v20, false)
		state := filepath.Join(k.dir, "state")
		var s *harness.Process
		back := make(chan bool)
		err := sendKilled(k, bags, len(bags), func(k *resumableTPM) {
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

// wantLost checks that a migration has failed with err, that no TPM is on, and that the state has
// not changed; nil means no state.
func (k *resumableTPM) wantLost(t *testing.T, what string, err error, was []byte) {
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
func (k *resumableTPM) comes(t *testing.T, bags luggage, g guest) {
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

// TestResumeGivenUp checks that a state with which the engine has ended the process five times is
// given up: the TPM starts fresh with its permanent state. After four times it is not.
func TestResumeGivenUp(t *testing.T) {
	t.Parallel()
	everyResumable(t, func(t *testing.T, v version, key bool) {
		k := newResumable(t, v, key)
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
func newStarting(t *testing.T, v version, seed []byte, flags string) *resumableTPM {
	t.Helper()
	dir := harness.TempDir(t)
	state := filepath.Join(dir, "state")
	mkdir(t, state)
	if seed != nil {
		write(t, filepath.Join(state, v.file()), seed)
	}
	args := append([]string{"socket", "--tpmstate", "dir=" + state, "--pid", "file=" + filepath.Join(dir, "pid"),
		"--server", "type=unixio,path=" + filepath.Join(dir, "d")}, v.options()...)
	return &resumableTPM{dir: dir, v: v, manager: newManager(t, append(args, "--flags", flags)...)}
}

// answers checks the result of a command, now and after a crash.
func (k *resumableTPM) answers(t *testing.T, want uint32) {
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

// TestResumeStartup kills a process that powers its TPM on by itself at each of its steps on disk,
// and checks that the guest finds a TPM that had its Startup.
func TestResumeStartup(t *testing.T) {
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

// TestResumeBeforeStartup checks the same for a process that was killed between power-on and
// Startup, where a TPM 1.2 stores nothing: the memory records that no client was served.
func TestResumeBeforeStartup(t *testing.T) {
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

// TestResumeUpgrade checks that a newer libtpms continues with the TPM of an older one, and the
// older one with what the newer one has saved. make newer has the newer library.
func TestResumeUpgrade(t *testing.T) {
	t.Parallel()
	dir := os.Getenv("SWTPM_NEWER_LIBTPMS")
	if dir == "" {
		t.Skip("$SWTPM_NEWER_LIBTPMS is not set: run make newer")
	}
	loaders, _ := filepath.Glob(filepath.Join(dir, "root/usr/lib/*/ld-linux-*.so.*"))
	if len(loaders) != 1 {
		t.Fatalf("no dynamic loader below %s/root", dir)
	}
	everyResumable(t, func(t *testing.T, v version, key bool) {
		k := newResumable(t, v, key)
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
