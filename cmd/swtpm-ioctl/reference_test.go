package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// runner runs a swtpm_ioctl: the one under test or the one of swtpm.
type runner func(args []string, stdin string) outcome

// reference finds the programs of swtpm and returns its swtpm_ioctl. Its messages start with
// the name with which it was called.
func reference(t *testing.T) runner {
	t.Helper()
	var path string
	for _, name := range []string{"swtpm", "swtpm_ioctl"} {
		var err error
		if path, err = exec.LookPath(name); err != nil {
			t.Skipf("needs the reference's %s to compare with: %v", name, err)
		}
	}
	return func(args []string, stdin string) outcome {
		cmd := exec.Command(path, args...)
		cmd.Args[0] = "swtpm_ioctl"
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
		err := cmd.Run()
		if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
			return outcome{-1, "", err.Error()}
		}
		return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
	}
}

// emulator is a running swtpm; its sockets are "ctrl" and "data" in dir.
type emulator struct {
	dir     string
	version tpm.Version
	target  []string // the options that reach it
	exited  chan error
	ended   chan struct{} // closed once it has exited
}

// start starts swtpm. With tcp it has a TCP control channel.
func start(t *testing.T, v tpm.Version, tcp bool) *emulator {
	t.Helper()
	dir := t.TempDir()
	e := &emulator{dir: dir, version: v, target: []string{"--unix", filepath.Join(dir, "ctrl")}, exited: make(chan error, 1), ended: make(chan struct{})}
	ctrl := "type=unixio,path=ctrl"
	if tcp {
		port := harness.FreePort(t)
		ctrl = fmt.Sprintf("type=tcp,port=%d", port)
		e.target = []string{"--tcp", fmt.Sprintf("127.0.0.1:%d", port)}
	}
	args := []string{"socket", "--tpmstate", "dir=.", "--ctrl", ctrl, "--server", "type=unixio,path=data"}
	if v == tpm.V20 {
		args = append(args, "--tpm2")
	}
	cmd := exec.Command("swtpm", args...)
	cmd.Dir = dir
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := e.ended
	go func() {
		e.exited <- cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("swtpm: %s", &log)
		}
	})
	for range 6000 { // a minute at least
		if ours(append(e.target[:2:2], "-c"), "").Exit == 0 {
			return e
		}
		select {
		case <-ended:
			t.Fatalf("swtpm %q ended: %s", args, &log)
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatalf("swtpm %q does not answer: %s", args, &log)
	return nil
}

// command sends a TPM command through the data channel and returns the result.
func (e *emulator) command(cmd []byte) ([]byte, error) {
	conn, err := net.Dial("unix", filepath.Join(e.dir, "data"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(cmd); err != nil {
		return nil, err
	}
	rsp := make([]byte, tpm.MaxCommand)
	n, err := conn.Read(rsp)
	return rsp[:n], err
}

// startup returns TPM_Startup or TPM2_Startup, clear.
func startup(v tpm.Version) []byte {
	if v == tpm.V12 {
		return tpm.Startup(v, 1)
	}
	return tpm.Startup(v, 0)
}

func (e *emulator) gone() bool {
	select {
	case <-e.ended:
		return true
	default:
		return false
	}
}

// run runs the program on the emulator; WORK in args and in the outcome stands for
// its directory.
func (e *emulator) run(f runner, args string, stdin string) outcome {
	words := append([]string(nil), e.target...)
	for _, a := range strings.Fields(args) {
		switch a {
		case "EMPTY":
			a = ""
		default:
			a = strings.ReplaceAll(a, "WORK", e.dir)
		}
		words = append(words, a)
	}
	o := f(words, stdin)
	for n := 0; n < 1000 && o.Stderr == "Could not connect using UnixIO socket.\n" && !e.gone(); n++ {
		time.Sleep(10 * time.Millisecond) // the queue is full, which happens on a busy machine
		o = f(words, stdin)
	}
	o.Stdout = strings.ReplaceAll(o.Stdout, e.dir, "WORK")
	o.Stderr = strings.ReplaceAll(o.Stderr, e.dir, "WORK")
	return o
}

// sequence has every command in every state of the TPM. "!startup" sends TPM_Startup. The
// number after "<" is the length of stdin.
var sequence = []string{
	"-c", "-e", "-g", "-b 0", "-b 100", "-b 9999", "-b 4096x", "-l 0", "-l 4", "-l 5", "-l x", "-r 5", "-v", "-C", "-h abc", "-r 3",
	"--save permanent WORK/early", "--stop",
	"-i", "-e", "-b 0", "-b 3000", "!startup", "-e", "-h 1234", "-e", "-r 0", "-e", "-r 3", "-e", "-h EMPTY", "-h - <0", "-h - <1",
	"-h - <4095", "-h - <4096", "-h - <10000", "-r 4", "-e", "-l 3", "-l 0", "-g", "-C",
	"--info 1", "--info 0x3", "--info 0x4", "--info 0x20", "--info 0xff", "--info 0", "--info 07", "--info abc", "--info 1x",
	"-v", "--save permanent WORK/perm", "--save volatile WORK/vol", "--save savestate WORK/save",
	"--save bogus WORK/x", "--save permanent", "--save permanent WORK", "--load bogus WORK/perm",
	"--load permanent WORK/perm", "--stop", "-e", "-b 3000", "--load permanent WORK/perm", "--load volatile WORK/vol",
	"--load savestate WORK/nofile", "-i", "-c -e", "", "--bogus", "--stop=1", "-s", "-s",
}

// TestSequence compares output and exit code of each command of a sequence with both programs, each
// with its own emulator.
func TestSequence(t *testing.T) {
	theirs := reference(t)
	for _, tt := range []struct {
		name string
		v    tpm.Version
		tcp  bool
	}{
		{"TPM 2.0, Unix", tpm.V20, false}, {"TPM 2.0, TCP", tpm.V20, true},
		{"TPM 1.2, Unix", tpm.V12, false}, {"TPM 1.2, TCP", tpm.V12, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := start(t, tt.v, tt.tcp), start(t, tt.v, tt.tcp)
			for i, line := range sequence {
				if line == "!startup" {
					both(t, a, b, startup(tt.v))
					continue
				}
				if line == "-s" && i == len(sequence)-1 {
					waitGone(t, a, b)
				}
				args, n, _ := strings.Cut(line, " <")
				var size int
				fmt.Sscan(n, &size)
				stdin := strings.Repeat("m", size)
				got, want := a.run(ours, args, stdin), b.run(theirs, args, stdin)
				got, want = withoutPort(got, a), withoutPort(want, b)
				if got != want {
					t.Errorf("step %d, swtpm_ioctl %s: %v, want %v", i, line, got, want)
				}
			}
			for _, name := range []string{"early", "perm", "vol", "save", "x"} {
				if got, want := describe(a.dir, name), describe(b.dir, name); got != want {
					t.Errorf("file %s is %s, want %s", name, got, want)
				}
			}
		})
	}
}

// withoutPort removes the port from the message that a connection was refused.
func withoutPort(o outcome, e *emulator) outcome {
	_, port, _ := strings.Cut(e.target[1], ":")
	o.Stderr = strings.ReplaceAll(o.Stderr, "'"+port+"'", "'PORT'")
	return o
}

// both sends the same TPM command to both emulators.
func both(t *testing.T, a, b *emulator, cmd []byte) {
	t.Helper()
	ra, err1 := a.command(cmd)
	rb, err2 := b.command(cmd)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(ra, rb) {
		t.Fatalf("command % x: % x and % x, %v", cmd, ra, rb, err)
	}
}

// waitGone waits until both emulators have exited, and checks the exit code 0.
func waitGone(t *testing.T, all ...*emulator) {
	t.Helper()
	for _, e := range all {
		select {
		case err := <-e.exited:
			if err != nil {
				t.Errorf("swtpm after SHUTDOWN: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("swtpm does not end after SHUTDOWN")
		}
	}
}

// describe returns the mode of a file and whether it is empty. The blobs of two TPMs
// differ.
func describe(dir, name string) string {
	st, err := os.Stat(filepath.Join(dir, name))
	if err != nil {
		return "not there"
	}
	return fmt.Sprintf("%v, empty %v", st.Mode(), st.Size() == 0)
}

// TestMove checks that a running TPM moves from one emulator to another if one program saves the
// state and the other loads it: PCR 17 has its value afterwards.
func TestMove(t *testing.T) {
	theirs := reference(t)
	for _, tt := range []struct {
		name     string
		out, in  runner
		measured string
	}{
		{"ours, then theirs", ours, theirs, "one"},
		{"theirs, then ours", theirs, ours, "two"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := start(t, tpm.V20, false), start(t, tpm.V20, false)
			must := func(e *emulator, f runner, args, stdin string) {
				t.Helper()
				if o := e.run(f, args, stdin); o.Exit != 0 {
					t.Fatalf("swtpm_ioctl %s: %v", args, o)
				}
			}
			must(a, tt.out, "-i", "")
			if _, err := a.command(startup(tpm.V20)); err != nil {
				t.Fatal(err)
			}
			must(a, tt.out, "-h -", tt.measured)
			want := pcr17(t, a)
			digest := sha256.Sum256(append(make([]byte, 32), sum(tt.measured)...))
			if !bytes.HasSuffix(want, digest[:]) {
				t.Fatalf("PCR 17 is % x, want it to end in % x", want, digest)
			}
			for _, blob := range []string{"permanent", "volatile", "savestate"} {
				must(a, tt.out, "--save "+blob+" WORK/"+blob, "")
				file := filepath.Join(a.dir, blob)
				if st, err := os.Stat(file); err != nil || st.Size() == 0 {
					continue // there is no savestate
				}
				must(b, tt.in, "--load "+blob+" "+file, "")
			}
			must(b, tt.in, "-i", "")
			if got := pcr17(t, b); !bytes.Equal(got, want) {
				t.Errorf("PCR 17 after the move is % x, want % x", got, want)
			}
		})
	}
}

func sum(s string) []byte {
	d := sha256.Sum256([]byte(s))
	return d[:]
}

// pcr17 reads PCR 17 of the SHA-256 bank: the response without its header and
// the update counter.
func pcr17(t *testing.T, e *emulator) []byte {
	t.Helper()
	// TPM2_PCR_Read: one selection, SHA-256, 3 bytes, bit 17.
	cmd, err := hex.DecodeString("8001" + "00000014" + "0000017e" + "00000001" + "000b" + "03" + "000002")
	if err != nil {
		t.Fatal(err)
	}
	rsp, err := e.command(cmd)
	if h, ok := tpm.ParseHeader(rsp); err != nil || !ok || h.Code != 0 {
		t.Fatalf("TPM2_PCR_Read: % x, %v", rsp, err)
	}
	return rsp[tpm.HeaderSize+4:]
}
