// Package inside_test runs in the virtual machine of package kernel_test, as root: it tests our
// programs with the drivers of a real kernel, and the clients of these drivers.
package inside_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for an expected event.
const patience = 2 * time.Minute

// marker exists in the virtual machine only.
const marker = "/tests/inside"

func TestMain(m *testing.M) {
	if os.Getenv(attemptsVar) != "" {
		makeAttempts()
		return
	}
	if _, err := os.Stat(marker); err != nil {
		fmt.Println("not in the virtual machine: run make kernel")
		return
	}
	for _, name := range []string{"tpm_vtpm_proxy", "cuse"} {
		if out, err := exec.Command("modprobe", name).CombinedOutput(); err != nil {
			fmt.Printf("modprobe %s: %v: %s", name, err, out)
			os.Exit(1)
		}
	}
	code := m.Run()
	if list := unexpected(); len(list) > 0 {
		fmt.Printf("FAIL: the kernel has denied what nobody wanted denied:\n%s\n", strings.Join(list, "\n"))
		code = 1
	}
	os.Exit(code)
}

// Commands for TPMs, in hex.
const (
	startup20 = "8001 0000000c 00000144 0000"
	random20  = "8001 0000000c 0000017b 0008"
	random12  = "00c1 0000000e 00000046 00000008"
)

// process is a program that runs during the test.
type process struct {
	cmd    *exec.Cmd
	out    text
	exited chan struct{}
}

// text collects the output of a program.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *text) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *text) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(name, args...)}
	p.begin(t)
	return p
}

// begin starts what cmd says.
func (p *process) begin(t *testing.T) {
	t.Helper()
	p.exited = make(chan struct{})
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("%v: %s", p.cmd, p.out.String())
		}
	})
}

// end sends a signal and checks the exit code, -1 for an end by that signal.
func (p *process) end(t *testing.T, sig os.Signal, want int) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	p.wait(t, want)
}

func (p *process) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *process) wait(t *testing.T, want int) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("%v does not end: %s", p.cmd, p.out.String())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != want {
		t.Errorf("%v: exit code %d, want %d: %s", p.cmd, code, want, p.out.String())
	}
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not happen in time: %s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// run runs a program, which must exit with 0, and returns its output on stdout.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(name string, args ...string) (string, error) {
	cmd := exec.Command("timeout", append([]string{"120", name}, args...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, out, errs.String())
	}
	return string(out), nil
}

// stateDir makes a directory for a TPM of user 65534.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return dir
}

const nobody = 65534

// open opens a device for one command after the other.
func open(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open %s: %v", path, err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// exchange sends a command in hex and returns the response in hex. If the kernel's own
// deadline passes, it is sent again.
func exchange(fd int, cmd string) (rsp string, err error) {
	for range 10 {
		rsp, err = exchangeOnce(fd, cmd)
		if !errors.Is(err, unix.ETIME) && !errors.Is(err, unix.ECANCELED) {
			break
		}
	}
	return rsp, err
}

func exchangeOnce(fd int, cmd string) (string, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(cmd, " ", ""))
	if err != nil {
		return "", err
	}
	if _, err := unix.Write(fd, b); err != nil {
		return "", fmt.Errorf("write: %w", err)
	}
	rsp := make([]byte, 4096)
	n, err := unix.Read(fd, rsp)
	if err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	return hex.EncodeToString(rsp[:n]), nil
}

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// succeed sends a command that must succeed and returns its response.
func succeed(t *testing.T, fd int, cmd string) string {
	t.Helper()
	rsp, err := exchange(fd, cmd)
	if err != nil || len(rsp) < 20 || rsp[12:20] != "00000000" {
		t.Fatalf("response to %s: %s, %v", cmd, rsp, err)
	}
	return rsp
}

// after is patience as a channel.
func after() <-chan time.Time { return time.After(patience) }
