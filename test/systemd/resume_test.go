package systemd_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The commands of the tests below.
const (
	readPCR10 = "8001 00000014 0000017e 00000001 000b 03 000400"
	session   = "8001 0000002b 00000176 40000007 40000007 0010 000102030405060708090a0b0c0d0e0f 0000 01 0010 000b" // a policy session
	sequence  = "8001 0000000e 00000186 0000 000b"                                                                 // TPM2_HashSequenceStart: a transient object
)

// pcr10 returns the value of PCR 10.
func pcr10(t *testing.T, c net.Conn) []byte {
	t.Helper()
	rsp := answer(t, c, readPCR10)
	return rsp[len(rsp)-32:]
}

// answer returns the response to a command, which must succeed.
func answer(t *testing.T, c net.Conn, cmd string) []byte {
	t.Helper()
	rsp, err := transmit(c, cmd)
	if err != nil || !bytes.Equal(rsp[6:10], make([]byte, 4)) {
		t.Fatalf("response %x, %v", rsp, err)
	}
	return rsp
}

// extend extends PCR 10 by n; after is what it has then.
func extend(n uint64, before []byte) (cmd string, after []byte) {
	var digest [32]byte
	binary.BigEndian.PutUint64(digest[:], n)
	sum := sha256.Sum256(append(bytes.Clone(before), digest[:]...))
	return "8002 00000041 00000182 0000000a 00000009 40000009 0000 00 0000 00000001 000b" + hex.EncodeToString(digest[:]), sum[:]
}

// killed kills the process of a unit and waits for the next one.
func killed(t *testing.T, unit string) {
	t.Helper()
	before := property(t, unit, "MainPID")
	must(t, "systemctl", "kill", "--signal=KILL", unit)
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		pid := property(t, unit, "MainPID")
		if pid != before && pid != "0" && property(t, unit, "ActiveState") == "active" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not come back", unit)
		}
	}
}

// TestResume checks that a connected client finds the TPM unchanged after systemctl restart and
// after a crash: PCRs, sessions and loaded objects. After a stop they no longer exist.
func TestResume(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "sealed"}[sealed], func(t *testing.T) {
			text := profile("clear")
			if sealed {
				text += "[key]\ncredential = \"state-key\"\nmode = \"aes-256-cbc\"\n"
			}
			name := instance(t, text)
			unit := service(name)
			if sealed {
				put(t, "/etc/swtpm/"+name+".key", 0o600, strings.Repeat("5a", 32)+"\n")
				dropIn(t, unit, "[Service]\nLoadCredential=state-key:/etc/swtpm/"+name+".key\n")
			}
			must(t, "systemctl", "start", unit)
			c := dial(t, name)
			cmd, value := extend(1, pcr10(t, c))
			command(t, c, cmd)
			handle := hex.EncodeToString(answer(t, c, session)[10:14])
			object := hex.EncodeToString(answer(t, c, sequence)[10:14])
			for i := range 4 {
				if i%2 == 0 {
					must(t, "systemctl", "restart", unit)
				} else {
					killed(t, unit)
				}
				if got := pcr10(t, c); !bytes.Equal(got, value) {
					t.Errorf("PCR 10 is %x, want %x", got, value)
				}
				command(t, c, "8001 0000000e 00000189"+handle) // TPM2_PolicyGetDigest
				command(t, c, "8002 00000020 0000015c"+object+"00000009 40000009 0000 00 0000 0003 616263")
			}
			if out := journal(t, unit, "cat"); strings.Contains(out, "starting fresh") {
				t.Errorf("it did not go on:\n%s", out)
			}
			must(t, "systemctl", "stop", unit)
			if err := try(c, getRandom); err == nil {
				t.Error("the client is still connected after the stop")
			}
			if got := property(t, unit, "Result"); got != "success" {
				t.Errorf("the result is %q", got)
			}
			must(t, "systemctl", "start", unit)
			if got := pcr10(t, dial(t, name)); !bytes.Equal(got, make([]byte, 32)) {
				t.Errorf("after a stop PCR 10 is %x", got)
			}
		})
	}
}

// TestResumeUnderLoad checks that each command under load is answered over the same connection,
// across restarts and kills, and that the answers are still true afterwards.
func TestResumeUnderLoad(t *testing.T) {
	name := instance(t, profile("clear"))
	unit := service(name)
	must(t, "systemctl", "start", unit)
	c := dial(t, name)
	stop, done := make(chan bool), make(chan error, 1)
	value, n, failed := pcr10(t, c), uint64(0), 0
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			n++
			cmd, after := extend(n, value)
			rsp, err := transmit(c, cmd)
			if err != nil {
				done <- err
				return
			}
			if bytes.Equal(rsp[6:10], []byte{0, 0, 1, 1}) { // it ran at the crash, or did not
				failed++
			}
			got, err := transmit(c, readPCR10)
			for ; err == nil && len(got) == 10; got, err = transmit(c, readPCR10) {
				failed++
			}
			if err != nil {
				done <- err
				return
			}
			switch got = got[len(got)-32:]; {
			case bytes.Equal(got, after):
				value = after
			case len(rsp) != 10 || !bytes.Equal(got, value):
				done <- fmt.Errorf("extend %d: response %x; PCR 10 is %x, want %x", n, rsp, got, after)
				return
			}
		}
	}()
	for i := range 8 { // fewer than StartLimitBurst=
		if i%2 == 0 {
			must(t, "systemctl", "restart", unit)
		} else {
			killed(t, unit)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d commands, %d of which were answered that they failed", 2*n, failed)
}

// TestCrashLoop checks that a service that crashes repeatedly has failed, and that its clients get
// an error.
func TestCrashLoop(t *testing.T) {
	name := instance(t, profile("clear"))
	unit := service(name)
	dropIn(t, unit, "[Unit]\nStartLimitIntervalSec=10min\n") // for a slow machine
	must(t, "systemctl", "start", unit)
	c := dial(t, name)
	command(t, c, getRandom)
	for end := time.Now().Add(patience); property(t, unit, "ActiveState") != "failed"; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is started for ever")
		}
		_, _ = in("systemctl", "kill", "--signal=SEGV", unit)
	}
	if got := property(t, unit, "NRestarts"); got == "0" {
		t.Error("it was not started again at all")
	}
	if err := try(c, getRandom); err == nil {
		t.Error("the client is still connected")
	}
	must(t, "systemctl", "reset-failed", unit)
}

// TestResumeQEMU checks that a virtual machine continues: its firmware uses the TPM before and
// after a restart and a crash of the service, and each reset powers the TPM off and on.
func TestResumeQEMU(t *testing.T) {
	name := instance(t, "[control]\nlisten = \"systemd:ctrl\"\n[tpmstate]\ndir = \"/var/lib/swtpm/%i\"\n")
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal("install the package qemu-system-x86: ", err)
	}
	unit := service(name)
	must(t, "systemctl", "start", socket(name))
	vm := exec.Command(qemu, "-display", "none", "-machine", "q35", "-m", "64", "-monitor", "stdio", "-net", "none",
		"-chardev", "socket,id=c,path="+inside("/run/swtpm/"+name+"/ctrl.sock"),
		"-tpmdev", "emulator,id=t,chardev=c", "-device", "tpm-tis,tpmdev=t")
	monitor, err := vm.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	vm.Stdout, vm.Stderr = &said, &said
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { _ = vm.Wait(); close(gone) }()
	t.Cleanup(func() { _ = vm.Process.Kill(); <-gone })

	// TPM2_Startup, self test, hierarchies: the firmware sends some.
	const used = "TPM 2.0 is on; data, 1 client; control systemd:ctrl, 1 client; ([5-9]|[1-9][0-9]+) commands.*"
	awaitStatus(t, unit, used)
	for _, end := range []func(){
		func() { must(t, "systemctl", "restart", unit) },
		func() { killed(t, unit) },
		func() { must(t, "systemctl", "restart", unit); killed(t, unit) },
	} {
		end()
		awaitStatus(t, unit, "TPM 2.0 is on; data, 1 client; control systemd:ctrl, 1 client; .*")
		if _, err := monitor.Write([]byte("system_reset\n")); err != nil {
			t.Fatal(err)
		}
		awaitStatus(t, unit, used) // counted from 0 by the new process
		select {
		case <-gone:
			t.Fatalf("QEMU has ended: %s", said.String())
		default:
		}
	}
	if out := journal(t, unit, "cat"); strings.Contains(out, "starting fresh") {
		t.Errorf("it did not go on:\n%s", out)
	}
}
