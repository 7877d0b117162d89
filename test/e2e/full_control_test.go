package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// TestFullDiskStartup checks that a TPM_Startup which finds no space can be sent again:
// with a TPM 1.2 it also uses up the saved state, which must still exist then.
func TestFullDiskStartup(t *testing.T) {
	t.Parallel()
	for v, save := range map[version]string{v20: "8001 0000000c 00000145 0001", v12: "00c1 0000000a 00000098"} {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			w := newFilled(t, onTmpfs(t), v, nil)
			pcr := w.pcr(t)
			w.ch.ok(t, save)
			if err := w.ctrl.Init(0); err != nil {
				t.Fatal(err)
			}
			startup := strings.Replace(w.ch.startup(), "0144 0000", "0144 0001", 1)
			if v == v12 {
				startup = "00c1 0000000c 00000099 0002"
			}
			w.d.fill(t)
			answer := w.send(startup)
			if w.mayWait(t, answer) {
				if err := w.ctrl.Cancel(); err != nil {
					t.Error(err)
				}
				if got := <-answer; got != v.refusal() {
					t.Errorf("canceled: %v, want %v", got, v.refusal())
				}
				w.d.free(t)
				w.ch.ok(t, startup)
			}
			if got := w.pcr(t); got != pcr {
				t.Errorf("PCR after a Startup with the saved state = %s, want %s", got, pcr)
			}
		})
	}
}

// pcr returns the response with a PCR that live has extended.
func (w *filled) pcr(t *testing.T) string {
	t.Helper()
	cmd := "00c1 0000000e 00000015 00000001"
	if w.v == v20 {
		cmd = "8001 00000014 0000017e 00000001 000b 03 020000"
	}
	rsp := w.ch.ok(t, cmd)
	return fmt.Sprintf("%x", rsp[len(rsp)-20:])
}

// mayWait waits until the command whose result answer returns waits, or has succeeded.
func (w *filled) mayWait(t *testing.T, answer <-chan error) (waits bool) {
	t.Helper()
	for end := time.Now().Add(harness.EventTimeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-answer:
			if err != nil {
				t.Fatal(err)
			}
			return false
		default:
		}
		if strings.Contains(harness.Read(t, w.e.log), "store waiting: ") {
			return true
		}
	}
	t.Fatal("the command neither waits nor returns")
	return false
}

// TestFullDiskEnds checks what ends a wait besides CANCEL_TPM_CMD, and that on-full and
// wait-limit are obeyed.
func TestFullDiskEnds(t *testing.T) {
	t.Parallel()
	ends := map[string]func(w *filled) error{
		"INIT":     func(w *filled) error { return w.e.control(t).Init(0) },
		"STOP":     func(w *filled) error { return w.e.control(t).Stop() },
		"SHUTDOWN": func(w *filled) error { return w.e.control(t).Shutdown() },
		"SIGTERM":  func(w *filled) error { return w.e.Cmd.Process.Signal(unix.SIGTERM) },
	}
	t.Run("store", func(t *testing.T) {
		t.Parallel()
		k := newClusterHost(t).keeping()
		for name, end := range ends {
			t.Run(name, func(t *testing.T) { endOnFullDisk(t, &fullDisk{keeping: k, dir: k.place(t)}, name, end) })
		}
	})
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			endOnFullDisk(t, onTmpfs(t), name, end)
		})
	}
	for args, said := range map[string]string{
		"on-full=fail":                "(on-full is fail)",
		"on-full=wait,wait-limit=1s":  "(waited 1s)",
		"wait-limit=2s,on-full=wait,": "(waited 2s)",
	} {
		t.Run(args, func(t *testing.T) { failOnFullDisk(t, args, said) })
	}
}

// failOnFullDisk checks that commands fail with these suboptions of --tpmstate, and go on when the disk is free.
func failOnFullDisk(t *testing.T, args, said string) {
	t.Parallel()
	d := onTmpfs(t)
	s := d.at(v20, d.dir)
	s.state += "," + strings.TrimSuffix(args, ",")
	e := start(t, s)
	ch := e.power(t, v20)
	ch.define(t)
	d.fill(t)
	for range 2 {
		if rsp, err := ch.transmit(incr20); err != nil || result(rsp) != uint32(tpm.RCNVUnavailable) {
			t.Errorf("response %x, %v, want 0x923", rsp, err)
		}
	}
	if log := harness.Read(t, e.log); strings.Count(log, said) != 1 || strings.Contains(log, "failure mode") {
		t.Errorf("log\n%s\nwant %q once", log, said)
	}
	ch.alive(t)
	d.free(t)
	if err := ch.bump(2); err != nil {
		t.Error(err)
	}
	if log := harness.Read(t, e.log); !strings.Contains(log, "store resumed: ") {
		t.Errorf("log\n%s\nwant that the disk takes states again", log)
	}
}

// endOnFullDisk ends a command that waits for the disk in one way.
func endOnFullDisk(t *testing.T, d *fullDisk, name string, end func(w *filled) error) {
	w := newFilled(t, d, v20, nil)
	w.d.fill(t)
	answer := w.send(incr20)
	w.waits(t, 1)
	if err := end(w); err != nil {
		t.Error(err)
	}
	if got := <-answer; got != v20.refusal() {
		t.Errorf("the answer is %v, want %v", got, v20.refusal())
	}
	if name == "SHUTDOWN" || name == "SIGTERM" {
		if code := w.e.Wait(t); code != 0 {
			t.Errorf("exit code %d, want 0; log:\n%s", code, harness.Read(t, w.e.log))
		}
	}
	w.d.free(t)
	w.e.Kill(t)
	if n := start(t, d.at(v20, d.dir)).power(t, v20).number(t); n != 1 {
		t.Errorf("the number is %d, want 1", n)
	}
}

// TestFullDiskRequests checks the replies to a control client on a full disk: INIT of a new TPM,
// STORE_VOLATILE and HASH_START fail, and state blobs can be fetched. The TPM continues.
func TestFullDiskRequests(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			d := onTmpfs(t)
			d.fill(t)
			e := start(t, inDir.at(v, d.dir))
			if err := e.control(t).Init(0); err == nil || !strings.Contains(harness.Read(t, e.log), "no space left on device") {
				t.Errorf("INIT of a new TPM: %v; log:\n%s", err, harness.Read(t, e.log))
			}
			e.Kill(t)
			d.free(t)

			w := newFilled(t, d, v, nil)
			before := w.sound(t)
			d.fill(t)
			if err := w.ctrl.StoreVolatile(); err == nil {
				t.Error("STORE_VOLATILE succeeds on a full disk")
			}
			if v == v12 { // it stores the established bit
				if err := w.ctrl.HashStart(); err == nil {
					t.Error("HASH_START succeeds on a full disk")
				}
			}
			for _, b := range []tpm.Blob{tpm.Permanent, tpm.Volatile} {
				if _, _, err := w.ctrl.State(b, false); err != nil {
					t.Errorf("GET_STATEBLOB of %v: %v", b, err)
				}
			}
			if after := w.sound(t); string(after) != string(before) {
				t.Errorf("state afterwards\n%x, before\n%x", after, before)
			}
			w.ch.alive(t)

			// A request that arrives while a command waits gets the state after the command.
			answer := w.send(map[version]string{v12: fmt.Sprintf(write12, 7), v20: incr20}[v])
			w.waits(t, 1)
			blob := make(chan error, 1)
			other := w.e.control(t)
			go func() { _, _, err := other.State(tpm.Volatile, false); blob <- err }()
			d.free(t)
			if err := <-answer; err != nil {
				t.Errorf("after space has returned: %v", err)
			}
			if err := <-blob; err != nil {
				t.Errorf("GET_STATEBLOB that came while the command waited: %v", err)
			}
		})
	}
}

// TestFullImage checks that a command waits with the state in one file. Such a file has room for
// the next store, so strace simulates the full disk.
func TestFullImage(t *testing.T) {
	needRoot(t, "the emulator lets nobody else trace it")
	harness.Need(t, "strace", "strace")
	t.Parallel()
	for _, v := range both {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			seed := inFile.makeState(t, v)
			for _, errno := range []string{"ENOSPC", "EDQUOT"} {
				e, state := withState(t, inFile, v, seed, "--seccomp", "action=log")
				ch := e.power(t, v)
				inFile.awaitBoot(t, v, state)
				s := attach(t, e, inFile, state, v, "-e", "inject=pwrite64:error="+errno)
				w := &filled{e: e, v: v, ch: ch}
				answer := w.send(map[version]string{v12: fmt.Sprintf(write12, 2), v20: incr20}[v])
				if !w.mayWait(t, answer) {
					t.Errorf("%s: the command does not wait", errno)
				}
				s.detach(t)
				if err := <-answer; err != nil {
					t.Errorf("%s: after space has returned: %v", errno, err)
				}
				if n := ch.number(t); n != 2 {
					t.Errorf("%s: the number is %d, want 2", errno, n)
				}
				e.Kill(t)
			}
		})
	}
}

// TestFullDiskService checks a service on a full disk: systemd gets a status with what the command
// waits for, the watchdog is fed, and neither kill -9 nor a restart costs the TPM.
func TestFullDiskService(t *testing.T) {
	t.Parallel()
	d := onTmpfs(t)
	dir := harness.TempDir(t)
	m := newManager(t, "socket", "--tpm2", "--tpmstate", "dir="+d.dir, "--flags", "startup-clear", "--log", "file="+dir+"/log",
		"--server", "type=unixio,path="+dir+"/d", "--ctrl", "type=unixio,path="+dir+"/c")
	m.env = append(m.env, "WATCHDOG_USEC=400000")
	m.start(t)
	e := &emulator{Process: m.Process, dir: dir, data: dir + "/d", ctrl: dir + "/c", log: dir + "/log"}
	w := &filled{e: e, d: d, v: v20, ch: e.open(t, v20), ctrl: e.control(t)}
	w.ch.define(t)
	for _, c := range live[v20] {
		w.ch.ok(t, c)
	}
	before := w.sound(t)
	for name, end := range map[string]func(){
		"kill -9": func() { m.crash(t, unix.SIGKILL) },
		"restart": func() { m.restart(t) },
	} {
		d.fill(t)
		logged := strings.Count(harness.Read(t, e.log), "store waiting: ")
		answer := w.send(incr20)
		w.waits(t, logged+1)
		fed := m.Count("WATCHDOG=1")
		if err := harness.Until(func() bool { return m.Count("WATCHDOG=1") > fed+1 }); err != nil {
			t.Errorf("%s: the watchdog is not fed while a command waits", name)
		}
		if err := harness.Until(func() bool { return m.Count("TPM 2.0 is on, waiting for space in dir://"+d.dir) > 0 }); err != nil {
			t.Errorf("%s: STATUS does not say that a command waits", name)
		}
		end()
		if err := <-answer; err == nil {
			t.Errorf("%s: the command that waited has succeeded", name)
		}
		if after := w.sound(t); string(after) != string(before) {
			t.Errorf("%s: state afterwards\n%x, before\n%x", name, after, before)
		}
		w.ch.alive(t)
		d.free(t)
		if err := w.ch.bump(0); err != nil {
			t.Errorf("%s: with space again: %v", name, err)
		}
		before = w.sound(t)
	}
}
