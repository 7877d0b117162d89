package e2e_test

import (
	"bytes"
	"errors"
	"io/fs"
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

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
)

// patience is how long a test waits for what has to come; no test measures time.
const patience = time.Minute

// process is a program that runs beside the test.
type process struct {
	cmd    *exec.Cmd
	out    buffer // stdout and stderr
	exited chan struct{}
}

// buffer is a bytes.Buffer that is written while it is read.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// startProcess starts cmd and sees to it that it ends with the test.
func startProcess(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	return startChanged(t, cmd, func(int) error { return nil })
}

// startChanged is startProcess with a call of change before anything waits for the
// process, as a tracer has to.
func startChanged(t testing.TB, cmd *exec.Cmd, change func(pid int) error) *process {
	t.Helper()
	p := &process{cmd: cmd, exited: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.out
	}
	cmd.WaitDelay = time.Second // a child of its own may keep the pipes
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	changed := change(cmd.Process.Pid)
	go func() { _ = cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.exited
	})
	if changed != nil {
		t.Fatal(changed)
	}
	return p
}

// wait waits for the end of the process and returns its exit code, -1 if a
// signal ended it.
func (p *process) wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("%v does not end; it said:\n%s", p.cmd, p.out.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

// kill ends the process without a warning.
func (p *process) kill(t testing.TB) {
	t.Helper()
	_ = p.cmd.Process.Kill()
	p.wait(t)
}

// gone tells whether the process has ended.
func (p *process) gone() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// emulator is a process with a TPM: ours, or the reference's.
type emulator struct {
	*process
	dir        string // its sockets and its log
	data, ctrl string // paths of the sockets
	log        string // path of the log
}

// setup says how an emulator is started; the zero setup is ours for a TPM 1.2.
type setup struct {
	program string   // default: swtpm as built
	tpm     version  // default 1.2
	state   string   // the state directory; default: a new one
	file    string   // a file or block device for the state instead
	args    []string // further options
	wrap    []string // a program to start it by, such as strace
	nodata  bool     // no data channel
}

// start starts an emulator with a data and a control socket and waits until both
// take clients.
func start(t testing.TB, s setup) *emulator {
	t.Helper()
	e := launch(t, s)
	e.await(t, e.ctrl)
	if !s.nodata {
		e.await(t, e.data)
	}
	return e
}

// launch is start without the waiting.
func launch(t testing.TB, s setup) *emulator {
	t.Helper()
	dir := tempDir(t)
	e := &emulator{dir: dir, data: filepath.Join(dir, "d"), ctrl: filepath.Join(dir, "c"), log: filepath.Join(dir, "log")}
	if s.state == "" && s.file == "" {
		s.state = filepath.Join(dir, "state")
		mkdir(t, s.state)
	}
	place := "dir=" + s.state
	if s.file != "" {
		place = "backend-uri=file://" + s.file
	}
	if s.program == "" {
		s.program = ours("swtpm")
	}
	args := append(s.wrap, s.program, "socket", "--tpmstate", place,
		"--ctrl", "type=unixio,path="+e.ctrl, "--log", "file="+e.log)
	if !s.nodata {
		args = append(args, "--server", "type=unixio,path="+e.data)
	}
	args = append(args, s.tpm.options()...)
	args = append(args, s.args...)
	e.process = startProcess(t, exec.Command(args[0], args[1:]...))
	return e
}

// await waits until something accepts connections at path.
func (e *emulator) await(t testing.TB, path string) {
	t.Helper()
	err := until(func() bool {
		if e.gone() {
			return true
		}
		fi, err := os.Lstat(path) // no connection: swtpm 0.7 serves one after the other
		return err == nil && fi.Mode()&fs.ModeSocket != 0 && listens(path)
	})
	if err != nil || e.gone() {
		t.Fatalf("%v has not opened %s; it said:\n%s%s", e.cmd, path, e.out.String(), read(t, e.log))
	}
}

// listens tells whether the Unix socket at path listens, by the kernel's list.
func listens(path string) bool {
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(b)) {
		// Num RefCount Protocol Flags Type St Inode Path; Flags has __SO_ACCEPTCON.
		f := strings.Fields(line)
		if len(f) == 8 && f[7] == path && f[3] == "00010000" {
			return true
		}
	}
	return false
}

// control connects to the control channel.
func (e *emulator) control(t testing.TB) *ctrl.Client {
	t.Helper()
	c, err := ctrl.Dial(t.Context(), "unix", e.ctrl)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, e.out.String(), read(t, e.log))
	}
	c.Timeout = patience
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// besides returns a log without what it says of a slow disk, which may be at any
// time and is no fault of the emulator.
func besides(log string) string {
	var out strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "the disk is slow") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// terminate ends the emulator by SIGTERM and wants it to end well.
func (e *emulator) terminate(t testing.TB) {
	t.Helper()
	_ = e.cmd.Process.Signal(unix.SIGTERM)
	if code := e.wait(t); code != 0 {
		t.Errorf("after SIGTERM: exit code %d, want 0; log:\n%s%s", code, e.out.String(), read(t, e.log))
	}
}

// until waits until cond holds.
func until(cond func() bool) error {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if cond() {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("what was waited for has not come")
}

// run runs our swtpm to its end and returns its exit code and what it said.
func run(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return runCmd(t, exec.Command(ours("swtpm"), args...))
}

// runCmd runs cmd to its end.
func runCmd(t testing.TB, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	code = startProcess(t, cmd).wait(t)
	return code, out.String(), errs.String()
}

// mustRun runs a program that must end well and returns its output.
func mustRun(t testing.TB, program string, args ...string) string {
	t.Helper()
	code, stdout, stderr := runCmd(t, exec.Command(program, args...))
	if code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", program, strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// read returns a file's content, "" if there is none.
func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// freePort returns a TCP port that nobody used a moment ago, and whose successor
// nobody used either: tpm2-tools expect the control channel there.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		a, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := a.Addr().(*net.TCPAddr).Port
		b, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+1)))
		_ = a.Close()
		if err == nil {
			_ = b.Close()
			return port
		}
	}
	t.Fatal("no two free ports in a row")
	return 0
}
