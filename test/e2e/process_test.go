package e2e_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/test/harness"
)

// emulator is a process with a TPM: ours, or the reference's.
type emulator struct {
	*harness.Process
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
	store   string   // a URI of a state in a cluster store instead, with options
	socket  string   // of its broker
	args    []string // further options
	wrap    []string // a program to start it by, such as strace
	nodata  bool     // no data channel
}

// where returns the URI of the state, with options.
func (s setup) where() string {
	switch {
	case s.store != "":
		return s.store
	case s.file != "":
		return "file://" + s.file
	}
	return "dir://" + s.state
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
	dir := harness.TempDir(t)
	e := &emulator{dir: dir, data: filepath.Join(dir, "d"), ctrl: filepath.Join(dir, "c"), log: filepath.Join(dir, "log")}
	if s.state == "" && s.file == "" && s.store == "" {
		s.state = filepath.Join(dir, "state")
		mkdir(t, s.state)
	}
	place := "dir=" + s.state
	if s.store != "" || s.file != "" {
		place = "backend-uri=" + s.where()
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
	cmd := exec.Command(args[0], args[1:]...)
	if s.socket != "" {
		cmd.Env = append(os.Environ(), "SWTPM_STORE_SOCKET="+s.socket)
	}
	e.Process = harness.Start(t, cmd)
	return e
}

// await waits until something accepts connections at path.
func (e *emulator) await(t testing.TB, path string) {
	t.Helper()
	err := harness.Until(func() bool {
		if e.Ended() {
			return true
		}
		fi, err := os.Lstat(path) // no connection: swtpm 0.7 serves one after the other
		return err == nil && fi.Mode()&fs.ModeSocket != 0 && harness.Listens(path)
	})
	if err != nil || e.Ended() {
		t.Fatalf("%v has not opened %s; it said:\n%s%s", e.Cmd, path, e.Out.String(), harness.Read(t, e.log))
	}
}

// awaitTCP waits until something listens on a port, for the data channel, and on the next one, for the
// control channel.
func (e *emulator) awaitTCP(t testing.TB, port int) {
	t.Helper()
	err := harness.Until(func() bool {
		return e.Ended() || harness.ListensTCP(port) && harness.ListensTCP(port+1)
	})
	if err != nil || e.Ended() {
		t.Fatalf("%v does not listen; it said:\n%s%s", e.Cmd, e.Out.String(), harness.Read(t, e.log))
	}
}

// control connects to the control channel.
func (e *emulator) control(t testing.TB) *ctrl.Client {
	t.Helper()
	c, err := ctrl.Dial(t.Context(), "unix", e.ctrl)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, e.Out.String(), harness.Read(t, e.log))
	}
	c.Timeout = harness.EventTimeout
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// besides returns a log without lines about a slow disk, which may be in it at any time and are
// no fault of the emulator.
func besides(log string) string {
	var out strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "the disk is slow") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// terminate ends the emulator by SIGTERM, and checks that it exits with 0.
func (e *emulator) terminate(t testing.TB) {
	t.Helper()
	_ = e.Cmd.Process.Signal(unix.SIGTERM)
	if code := e.Wait(t); code != 0 {
		t.Errorf("after SIGTERM: exit code %d, want 0; log:\n%s%s", code, e.Out.String(), harness.Read(t, e.log))
	}
}

// run runs our swtpm to its end and returns its exit code and output.
func run(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return runCmd(t, exec.Command(ours("swtpm"), args...))
}

// runCmd runs cmd to its end.
func runCmd(t testing.TB, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs harness.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	code = harness.Start(t, cmd).Wait(t)
	return code, out.String(), errs.String()
}

// mustRun runs a program, which must exit with 0, and returns its output.
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
