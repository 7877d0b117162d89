// Package compare_test sends the same bytes to Debian's swtpm and to ours and
// compares the answers, byte for byte. Intended differences are in
// differences_test.go, with the reason.
package compare_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
)

const reference = "/usr/bin/swtpm"

// silence is the time without data after which a reply counts as missing. The emulators drop half
// a request after 500 ms, and half a command after a second.
const silence = 2 * time.Second

// quiet is the time without data that ends a response.
const quiet = 300 * time.Millisecond

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "compare")
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "swtpm"), harness.Build(dir, nil, "swtpm")
})

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "8") // most of the time both programs wait
	code := m.Run()
	if code == 0 && flag.Lookup("test.run").Value.String() == "" && !allSeen() {
		code = 1
	}
	if path, err := build(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// referenceVersion skips the test if there is nothing to compare with.
func referenceVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(reference, "--version").Output()
	if err != nil {
		t.Skipf("no reference to compare with: %s --version: %v; install Debian's package swtpm", reference, err)
	}
	words := strings.Fields(string(out)) // TPM emulator version 0.7.1, Copyright ...
	if len(words) < 4 {
		t.Fatalf("%s --version = %q, want a version as the fourth word", reference, out)
	}
	return strings.TrimRight(words[3], ",")
}

// instance is a running emulator with a state of its own.
type instance struct {
	*harness.Process
	dir  string
	ctrl *peer
	data *peer
}

// peer is a connection and what is known of it.
type peer struct {
	net.Conn
	path string
}

// start runs path with a state directory and both sockets. -listen in args
// leaves the data channel to SET_DATAFD.
func start(t *testing.T, path, version string, args ...string) *instance {
	t.Helper()
	dir := harness.TempDir(t)
	seed(t, dir, version)
	i := &instance{dir: dir}
	i.ctrl, i.data = &peer{path: dir + "/c"}, &peer{path: dir + "/d"}
	all := []string{"socket", "--tpmstate", "dir=" + dir, "--ctrl", "type=unixio,path=" + i.ctrl.path}
	if version == "2.0" {
		all = append(all, "--tpm2")
	}
	if len(args) > 0 && args[0] == "-nodata" {
		args, i.data = args[1:], nil
	} else {
		all = append(all, "--server", "type=unixio,path="+i.data.path)
	}
	i.Process = harness.Start(t, exec.Command(path, append(all, args...)...))
	i.ctrl.connect(t, i)
	return i
}

// seed gives each instance the same state: a new one takes seconds with a TPM 1.2, and no two new
// ones are equal.
func seed(t *testing.T, dir, version string) {
	t.Helper()
	name := stateFiles[version] + "permall"
	b, err := os.ReadFile(vectors + vectorNames[version] + "-plain/" + name)
	if err == nil {
		err = os.WriteFile(dir+"/"+name, b, 0o640)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// vectors are states and blobs of real TPMs, made by the reference; see the
// README there.
const vectors = "../../internal/seal/testdata/state/"

var (
	vectorNames = map[string]string{"1.2": "tpm12", "2.0": "tpm2"}
	stateFiles  = map[string]string{"1.2": "tpm-00.", "2.0": "tpm2-00."}
)

// ending describes the end of the process and its output; "" while it runs.
func (i *instance) ending() string {
	select {
	case <-i.Done:
		return fmt.Sprintf("; %s: %v: %s", i.Cmd.Path, i.Cmd.ProcessState, i.Out.String())
	case <-time.After(100 * time.Millisecond): // it may be about to
		return ""
	}
}

// connect connects anew.
func (p *peer) connect(t *testing.T, i *instance) {
	t.Helper()
	p.close()
	for end := time.Now().Add(harness.EventTimeout); ; {
		c, err := net.Dial("unix", p.path)
		if err == nil {
			p.Conn = c
			return
		}
		select {
		case <-i.Done:
			t.Fatalf("%s has ended: %s", i.Cmd, i.Out.String())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", i.Cmd, err)
		}
	}
}

func (p *peer) close() {
	if p.Conn != nil {
		_ = p.Close()
		p.Conn = nil
	}
}

// sentinel is GET_CAPABILITY. Its reply marks the end of what came before, as
// replies do not contain their length.
var sentinel = []byte{0, 0, 0, 1}

// request sends a request, in pieces with a pause between them, and returns the
// reply in hex; "closed" if the connection was closed without one, "silence" if
// nothing came for d.
func (p *peer) request(capability []byte, d time.Duration, pieces ...[]byte) string {
	if err := p.send(pieces); err != nil {
		return "closed"
	}
	var reply []byte
	asked := false
	buf := make([]byte, 1<<20)
	_ = p.SetReadDeadline(time.Now().Add(d))
	for {
		n, err := p.Read(buf)
		reply = append(reply, buf[:n]...)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return "silence"
		case err != nil:
			return hex.EncodeToString(reply) + "closed"
		case !asked:
			asked = true
			if _, err := p.Write(sentinel); err != nil && !errors.Is(err, syscall.EPIPE) {
				return err.Error()
			}
		case bytes.HasSuffix(reply, capability):
			return hex.EncodeToString(reply[:len(reply)-len(capability)])
		}
	}
}

// busy is how many times longer than silence and quiet a busy machine may need.
const busy = 16

// command sends a command and returns in hex what comes until there are want bytes.
func (p *peer) command(want int, pieces ...[]byte) string { return p.commandFor(busy, want, pieces...) }

// commandFor is command; without want it returns what comes until it is quiet for a number of times the
// usual time.
func (p *peer) commandFor(times time.Duration, want int, pieces ...[]byte) string {
	if err := p.send(pieces); err != nil {
		return "closed"
	}
	var rsp []byte
	buf := make([]byte, 1<<16)
	for len(rsp) < want || want == 0 {
		d := silence
		if len(rsp) > 0 {
			d = quiet
		}
		_ = p.SetReadDeadline(time.Now().Add(times * d))
		n, err := p.Read(buf)
		rsp = append(rsp, buf[:n]...)
		if err == io.EOF || errors.Is(err, syscall.ECONNRESET) {
			return hex.EncodeToString(rsp) + "closed"
		}
		if err != nil {
			return hex.EncodeToString(rsp) + "silence"
		}
	}
	return hex.EncodeToString(rsp)
}

// send writes the pieces so that each is read by itself: the next one follows when the
// emulator has read all of the previous one, or has stopped reading.
func (p *peer) send(pieces [][]byte) error {
	for n, b := range pieces {
		if n > 0 {
			if err := p.drained(); err != nil {
				return err
			}
		}
		if _, err := p.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// drained waits until the emulator has read everything, but no longer than silence.
func (p *peer) drained() error {
	raw, err := p.Conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	for end := time.Now().Add(silence); time.Now().Before(end); time.Sleep(time.Millisecond) {
		unread := 0
		var ioctlErr error
		if err := raw.Control(func(fd uintptr) { unread, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }); err != nil {
			return err
		}
		if unread == 0 || ioctlErr != nil {
			return ioctlErr
		}
	}
	return nil
}
