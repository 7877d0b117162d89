package fuzzlive_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

const (
	// patience is the longest time for an answer; the machine may be busy.
	patience = 3 * time.Minute

	// leaving is the longest time until disconnected clients are forgotten.
	leaving = 30 * time.Second

	// lateFDs are descriptors that an emulator may open after its start.
	lateFDs = 2

	// maxGrowthKiB is the largest difference of the memory between two moments of the same load.
	maxGrowthKiB = 8 << 10

	// maxThreads is the largest number of additional threads after a load: threads of Go's
	// runtime, which are created late, and none for clients.
	maxThreads = 2

	// maxIdleTicks is the processor time that a TPM without clients takes in a second,
	// in clock ticks.
	maxIdleTicks = 20
)

// version is a TPM's version.
type version string

const (
	v12 version = "1.2"
	v20 version = "2.0"
)

// logTarget is the destination of the emulator's standard error.
type logTarget int

const (
	logNone logTarget = iota // to the test
	logPipe
	logNull
	logTerminal
)

// arrangement is a way to run the emulator.
type arrangement struct {
	name   string
	args   []string // paths are relative to its directory
	tcp    bool
	noData bool // SET_DATAFD brings it
	log    logTarget
}

// emulator is a running one.
type emulator struct {
	arrangement
	v          version
	cmd        *exec.Cmd
	dir        string
	data, ctrl string // addresses
	out        tail
	done       chan struct{} // closed when it has ended
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - 64<<10; n > 0 {
		t.b = append([]byte(nil), t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// launch starts an emulator and waits until it takes clients.
func launch(t *testing.T, v version, a arrangement) *emulator {
	t.Helper()
	dir, err := os.MkdirTemp("", "fuzzlive")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := &emulator{arrangement: a, v: v, dir: dir, data: filepath.Join(dir, "d"), ctrl: filepath.Join(dir, "c"), done: make(chan struct{})}
	if err := os.WriteFile(filepath.Join(dir, "key"), bytes.Repeat([]byte("k"), 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"socket", "--tpmstate", "dir=state"}
	if v == v20 {
		args = append(args, "--tpm2")
	}
	if a.tcp {
		port := harness.FreePort(t)
		e.data, e.ctrl = strconv.Itoa(port), strconv.Itoa(port+1)
	}
	if !a.noData {
		args = append(args, "--server", address(e.data))
	}
	args = append(append(args, "--ctrl", address(e.ctrl)), a.args...)
	e.cmd = exec.Command(swtpm, args...)
	e.cmd.Dir = dir
	e.connectLog(t)
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = e.cmd.Wait(); close(e.done) }()
	t.Cleanup(func() { _ = e.cmd.Process.Kill(); <-e.done })
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		conn, err := e.dial(e.ctrl)
		if err == nil {
			_ = conn.Close()
			return e
		}
		if e.ended() || time.Now().After(end) {
			t.Fatalf("%q takes no clients: %v\n%s", args, err, e.out.String())
		}
	}
}

// connectLog gives the emulator its standard error.
func (e *emulator) connectLog(t *testing.T) {
	switch e.log {
	case logNull:
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = null.Close() })
		e.cmd.Stdout, e.cmd.Stderr = null, null
	case logTerminal:
		master, slave := terminal(t)
		e.cmd.Stdout, e.cmd.Stderr = slave, slave
		go func() { _, _ = io.Copy(&e.out, master) }() // until the terminal is closed
	default:
		e.cmd.Stdout, e.cmd.Stderr = &e.out, &e.out // by a pipe
	}
}

// terminal opens a pseudo-terminal.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal: %v", err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

// address is a socket on the command line.
func address(a string) string {
	if _, err := strconv.Atoi(a); err == nil {
		return "type=tcp,port=" + a
	}
	return "type=unixio,path=" + a
}

// dial connects to a channel.
func (e *emulator) dial(a string) (net.Conn, error) {
	if e.tcp {
		return net.DialTimeout("tcp", "127.0.0.1:"+a, patience)
	}
	return net.DialTimeout("unix", a, patience)
}

// ended reports whether the process has ended.
func (e *emulator) ended() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// complain fails the test; it shows the end of the log.
func (e *emulator) complain(t *testing.T, format string, args ...any) {
	t.Helper()
	log, _ := os.ReadFile(filepath.Join(e.dir, "log"))
	t.Fatalf("%s\nended: %v, %v\n%s%s", fmt.Sprintf(format, args...), e.ended(), e.cmd.ProcessState, e.out.String(), log[max(0, len(log)-8<<10):])
}

// ask sends b on a new connection and returns a reply of n bytes at least.
func (e *emulator) ask(channel string, b []byte, n int) ([]byte, error) {
	conn, err := e.dial(channel)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return askOn(conn, b, n)
}

func askOn(conn net.Conn, b []byte, n int) ([]byte, error) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(b); err != nil {
		return nil, err
	}
	rep := make([]byte, 4096)
	have, err := io.ReadAtLeast(conn, rep, n)
	return rep[:have], err
}

// alive checks that clients of both channels are answered while others misbehave. The result of a
// command depends on what the others have sent.
func (e *emulator) alive() error {
	rep, err := e.ask(e.ctrl, harness.Unhex("00000001"), 8)
	if err != nil || len(rep) != 8 || binary.BigEndian.Uint32(rep) != 0 {
		return fmt.Errorf("GET_CAPABILITY: %x, %w", rep, err)
	}
	if e.noData {
		return nil
	}
	rep, err = e.ask(e.data, e.question(), 10)
	if err != nil || int(binary.BigEndian.Uint32(rep[2:])) != len(rep) {
		return fmt.Errorf("a command: %x, %w", rep, err)
	}
	return nil
}

// question is a command that a TPM answers in any state after its startup.
func (e *emulator) question() []byte {
	if e.v == v12 {
		return harness.Unhex("00c1 00000016 00000065 00000005 00000004 00000103") // TPM_GetCapability, manufacturer
	}
	return harness.Unhex("8001 00000016 0000017a 00000006 00000105 00000001") // TPM2_GetCapability, manufacturer
}

// proper checks that a correct client gets a working TPM: it powers the TPM off and on, starts
// it, and sends a command.
func (e *emulator) proper(t *testing.T) {
	t.Helper()
	conn, err := e.dial(e.ctrl)
	if err != nil {
		e.complain(t, "no control channel: %v", err)
	}
	defer conn.Close()
	// STOP, SET_LOCALITY, SET_STATEBLOB, INIT: without the volatile state that is stored or
	// was set, which may come from a TPM in failure mode, or from the time before a Clear.
	for _, q := range []string{"0000000e", "00000005 00", "0000000d 00000000 00000002 00000000", "00000002 00000001"} {
		if rep, err := askOn(conn, harness.Unhex(q), 4); err != nil || !bytes.Equal(rep, []byte{0, 0, 0, 0}) {
			e.complain(t, "request %s: %x, %v", q, rep, err)
		}
	}
	if e.noData {
		return
	}
	startup := "00c1 0000000c 00000099 0001"
	if e.v == v20 {
		startup = "8001 0000000c 00000144 0000"
	}
	for _, c := range [][]byte{harness.Unhex(startup), e.question()} {
		if rep, err := e.ask(e.data, c, 10); err != nil || binary.BigEndian.Uint32(rep[6:]) != 0 {
			e.complain(t, "command %x: %x, %v", c, rep, err)
		}
	}
}

// terminate ends the emulator in order.
func (e *emulator) terminate(t *testing.T) {
	t.Helper()
	_ = e.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-e.done:
	case <-time.After(patience):
		e.complain(t, "SIGTERM does not end it")
	}
	if code := e.cmd.ProcessState.ExitCode(); code != 0 {
		e.complain(t, "exit code %d after SIGTERM, want 0", code)
	}
}

// usage is the resources of a process.
type usage struct{ fds, threads, residentKiB int }

func (u usage) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %d KiB", u.fds, u.threads, u.residentKiB)
}

// usage reads /proc; the descriptors are 0 if it may not.
func (e *emulator) usage() (u usage) {
	proc := fmt.Sprintf("/proc/%d/", e.cmd.Process.Pid)
	fds, _ := os.ReadDir(proc + "fd")
	u.fds = len(fds)
	status, _ := os.ReadFile(proc + "status")
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "Threads:":
			u.threads, _ = strconv.Atoi(f[1])
		case len(f) > 1 && f[0] == "VmRSS:":
			u.residentKiB, _ = strconv.Atoi(f[1])
		}
	}
	return u
}

// openFiles returns what the descriptors are.
func (e *emulator) openFiles() (all []string) {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", e.cmd.Process.Pid))
	for _, l := range links {
		to, _ := os.Readlink(l)
		all = append(all, to)
	}
	return all
}

// settled waits until the clients that have left are forgotten and there are at most
// want descriptors, and returns what the process has then.
func (e *emulator) settled(t *testing.T, want int) usage {
	t.Helper()
	for end := time.Now().Add(leaving); ; time.Sleep(100 * time.Millisecond) {
		if e.ended() {
			e.complain(t, "the emulator has ended")
		}
		if u := e.usage(); u.fds <= want || time.Now().After(end) {
			return u
		}
	}
}

// idle checks that an emulator without clients takes no processor time.
func (e *emulator) idle(t *testing.T) {
	t.Helper()
	before := e.ticks()
	time.Sleep(time.Second)
	if n := e.ticks() - before; n > maxIdleTicks {
		e.complain(t, "%d ticks of processor time in an idle second, want at most %d", n, maxIdleTicks)
	}
}

// ticks returns the processor time, in clock ticks.
//
// Source: proc(5), /proc/PID/stat, fields 14 and 15.
func (e *emulator) ticks() int {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
}
