package e2e_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/io/ctrl"
	"github.com/swtpm-go/swtpm/internal/tpm"
	"github.com/swtpm-go/swtpm/test/harness"
)

// tooNew returns a plain state of a TPM 2.0 which says that a later libtpms wrote it, so
// that the installed one refuses it, with some lines in its log.
//
// Source: libtpms, NVMarshal.c, PERSISTENT_ALL: version and magic, and the version of
// libtpms that is needed at least.
func tooNew(t testing.TB, state []byte) []byte {
	t.Helper()
	const tagData = 1
	for at := int(binary.BigEndian.Uint16(state[2:])); at+6 <= len(state); {
		n := int(binary.BigEndian.Uint32(state[at+2:]))
		if binary.BigEndian.Uint16(state[at:]) != tagData {
			at += 6 + n
			continue
		}
		data := append([]byte(nil), state[at+6:at+6+n]...)
		binary.BigEndian.PutUint16(data, 99)
		binary.BigEndian.PutUint16(data[6:], 99)
		out := []byte{2, 1, 0, 10, 0, 0}
		out = binary.BigEndian.AppendUint32(out, uint32(16+len(data)))
		out = binary.BigEndian.AppendUint16(out, tagData)
		out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
		return append(out, data...)
	}
	t.Fatal("the state has no data")
	return nil
}

// A sink is a destination of an emulator's messages: options, and how its process is started.
type sink struct {
	name   string
	args   []string
	output func(t *testing.T, cmd *exec.Cmd)
	daemon bool
}

var sinks = []sink{
	{name: "a file", args: []string{"--log", "file=log,level=20"}},
	{name: "nothing", args: []string{"--log", "level=20"}, output: toNull},
	{name: "nothing, level 1", output: toNull},
	{name: "nothing but standard output", args: []string{"--log", "level=20"}, output: func(t *testing.T, cmd *exec.Cmd) { cmd.Stderr = null(t) }},
	{name: "minus", args: []string{"--log", "file=-"}, output: toNull},
	{name: "minus, level 20", args: []string{"--log", "file=-,level=20"}},
	{name: "the null device", args: []string{"--log", "file=/dev/null,level=20"}},
	{name: "a full device", args: []string{"--log", "file=/dev/full,level=20"}, output: toNull},
	{name: "closed standard error", args: []string{"--log", "level=20"}, output: closed("2>&-")},
	{name: "closed standard output and error", output: closed(">&- 2>&-")},
	{name: "a terminal", args: []string{"--log", "level=20"}, output: toTerminal},
	{name: "a descriptor", args: []string{"--log", "fd=3,level=20"}, output: func(t *testing.T, cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{null(t)} }},
	{name: "a daemon without a log", args: []string{"--daemon"}, output: toNull, daemon: true},
}

func null(t *testing.T) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func toNull(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stdout, cmd.Stderr = null(t), null(t)
}

func closed(redirection string) func(*testing.T, *exec.Cmd) {
	return func(t *testing.T, cmd *exec.Cmd) {
		t.Helper()
		sh := harness.Need(t, "sh", "dash")
		cmd.Args = append([]string{sh, "-c", `exec "$@" ` + redirection, "sh"}, cmd.Args...)
		cmd.Path = sh
	}
}

// toTerminal makes a pseudo-terminal whose other side is read.
func toTerminal(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	tty := openTerminal(t, io.Discard)
	cmd.Stdout, cmd.Stderr = tty, tty
}

// openTerminal makes a pseudo-terminal and copies what it is sent to out.
func openTerminal(t *testing.T, out io.Writer) (tty *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("there are no pseudo-terminals here:", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("/dev/pts is not mounted:", err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	go func() { _, _ = io.Copy(out, master) }()
	return tty
}

// start starts an emulator in dir whose messages go to s.
func (s sink) start(t *testing.T, v version, dir, state string) *emulator {
	t.Helper()
	e := &emulator{dir: dir, data: filepath.Join(dir, "d"), ctrl: filepath.Join(dir, "c")}
	pid := filepath.Join(dir, "pid")
	args := append([]string{"socket", "--tpmstate", "dir=" + state, "--ctrl", "type=unixio,path=" + e.ctrl,
		"--server", "type=unixio,path=" + e.data, "--pid", "file=" + pid}, v.options()...)
	cmd := exec.Command(ours("swtpm"), append(args, s.args...)...)
	cmd.Dir = dir
	if s.output != nil {
		s.output(t, cmd)
	}
	e.Process = harness.Start(t, cmd)
	if !s.daemon {
		e.awaitSocket(t, e.ctrl)
		e.awaitSocket(t, e.data)
		return e
	}
	if code := e.Wait(t); code != 0 {
		t.Fatalf("%v: exit code %d", cmd, code)
	}
	n, err := strconv.Atoi(harness.Read(t, pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(n, unix.SIGKILL) })
	return e
}

// awaitSocket is await for an emulator without captured output.
func (e *emulator) awaitSocket(t *testing.T, path string) {
	t.Helper()
	if err := harness.Until(func() bool { return e.Ended() || harness.Listens(path) }); err != nil || e.Ended() {
		t.Fatalf("%v does not listen on %s", e.Cmd, path)
	}
}

// TestLogSinks checks that libtpms may write its messages, whatever they go to, and that
// no error ends the emulator: a state that libtpms refuses, a blob that it refuses from a
// control client, and a store that fails.
func TestLogSinks(t *testing.T) {
	t.Parallel()
	for _, v := range both {
		for _, s := range sinks {
			t.Run(fmt.Sprint(v, " ", s.name), func(t *testing.T) {
				t.Parallel()
				logSink(t, v, s)
			})
		}
	}
}

func logSink(t *testing.T, v version, s sink) {
	dir := harness.TempDir(t)
	state := filepath.Join(dir, "state")
	mkdir(t, state)
	good := []byte(harness.Read(t, filepath.Join(vector(t, v), v.file())))
	bad := good[:len(good)-1]
	if v == v20 {
		bad = tooNew(t, good)
	}
	write(t, filepath.Join(state, v.file()), bad)
	e := s.start(t, v, dir, state)
	c, err := ctrl.Dial(t.Context(), "unix", e.ctrl)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Timeout = harness.EventTimeout
	fails := func(what string, err error) {
		t.Helper()
		var result tpm.Result
		if !errors.As(err, &result) {
			t.Fatalf("%s: %v, want a result", what, err)
		}
	}
	fails("INIT with a state that is refused", c.Init(0))
	if err := c.SetState(tpm.Permanent, 0, bad); err == nil {
		fails("INIT with a blob that is refused", c.Init(0))
	} else {
		fails("a blob that is refused", err)
	}
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(state, v.file()), good)
	if err := c.Init(0); err != nil {
		t.Fatalf("INIT with a state that is in order: %v", err)
	}
	ch := e.open(t, v)
	ch.ok(t, ch.startup())
	// The file of the boot ledger may appear while the directory is removed.
	harness.Await(t, "the directory is removed", func() bool { return os.RemoveAll(state) == nil })
	if _, err := ch.transmit(map[version]string{v12: define12, v20: define20}[v]); err != nil {
		t.Fatalf("a command whose store fails: %v, want a response", err)
	}
	if err := c.Shutdown(); err != nil {
		t.Errorf("SHUTDOWN: %v", err)
	}
}

// TestVerbsOnRefusedState checks that a verb prints why libtpms refuses a state, with exit code
// 1, wherever its messages go.
func TestVerbsOnRefusedState(t *testing.T) {
	t.Parallel()
	dir, empty := vector(t, v20), harness.TempDir(t)
	path := filepath.Join(dir, v20.file())
	write(t, path, tooNew(t, []byte(harness.Read(t, path))))
	archive := filepath.Join(harness.TempDir(t), "archive")
	mustState(t, "export", "--tpmstate", "dir="+dir, archive)
	for _, action := range []string{"kill", "log", "none"} {
		for _, args := range [][]string{
			{"verify", "--tpmstate", "dir=" + dir},
			{"inspect", "--ek", "--tpmstate", "dir=" + dir},
			{"import", "--tpmstate", "dir=" + empty, archive},
		} {
			args = append([]string{"state"}, append(args, "--seccomp", "action="+action)...)
			for _, stdout := range []string{"", ">/dev/null"} {
				sh := exec.Command("sh", "-c", `exec "$@" `+stdout, "sh", ours("swtpm"))
				sh.Args = append(sh.Args, args...)
				if code, _, stderr := runCmd(t, sh); code != 1 || !strings.Contains(stderr, "libtpms does not start with this state") || !strings.Contains(stderr, "; use a libtpms newer than ") {
					t.Errorf("%s %s: exit code %d, want 1\n%s", args, stdout, code, stderr)
				}
			}
		}
	}
}
