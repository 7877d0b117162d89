// Package newer_test runs a binary that was built against this machine's libtpms
// with a newer one, and state made by each with the other. make newer fetches
// the libraries and calls it.
package newer_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/record"
)

// rootVar names the directory that fetch.sh has filled, below which there is
// root/usr/lib/….
const rootVar = "SWTPM_NEWER_LIBTPMS"

// newer returns the words that run a program with the newer libraries.
func newer(t *testing.T) []string {
	t.Helper()
	dir := os.Getenv(rootVar)
	if dir == "" {
		t.Skipf("$%s is not set: run make newer", rootVar)
	}
	loaders, _ := filepath.Glob(filepath.Join(dir, "root/usr/lib/*/ld-linux-*.so.*"))
	if len(loaders) != 1 {
		t.Fatalf("no dynamic loader below %s/root", dir)
	}
	return []string{loaders[0], "--library-path", filepath.Dir(loaders[0])}
}

// bin is our emulator, built once with this machine's library.
var bin string

// built returns the path of another program that was built with it.
func built(name string) string { return filepath.Join(filepath.Dir(bin), name) }

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "newer:", err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	if os.Getenv(rootVar) == "" {
		return m.Run(), nil // all is skipped
	}
	dir, err := os.MkdirTemp("", "newer")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	bin = filepath.Join(dir, "swtpm")
	recorder, err := record.Start()
	if err != nil {
		return 1, err
	}
	if err := harness.Build(dir, recorder.BuildFlags(), "swtpm", "swtpm-setup", "swtpm-localca", "swtpm-cert"); err != nil {
		return 1, err
	}
	for _, name := range []string{"setup", "localca"} {
		if err := os.Link(built("swtpm-"+name), built("swtpm_"+name)); err != nil {
			return 1, err
		}
	}
	code := m.Run()
	return code, recorder.Judge(false)
}

// ask sends a command in hex and returns the response in hex.
func ask(t *testing.T, c net.Conn, cmd string) string {
	t.Helper()
	if _, err := c.Write(harness.Unhex(cmd)); err != nil {
		t.Fatal(err)
	}
	rsp := make([]byte, 4096)
	n, err := c.Read(rsp)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(rsp[:n])
}

// live starts a TPM, calls f with its data channel, and stops it.
func live(t *testing.T, words []string, f func(net.Conn)) {
	t.Helper()
	sock := filepath.Join(harness.TempDir(t), "d")
	words = append(words, "--server", "type=unixio,path="+sock)
	p := harness.Start(t, exec.Command(words[0], words[1:]...))
	c := harness.Dial(t, p, sock)
	f(c)
	_ = c.Close()
	if !slices.Contains(words, "--terminate") { // otherwise it ends with its client
		_ = p.Cmd.Process.Signal(os.Interrupt)
	}
	if code := p.Wait(t); code != 0 {
		t.Errorf("%v: exit code %d\n%s", words, code, p.Out.String())
	}
}

// TestFindsNewerFunctions checks that the binary uses functions that only the newer library has.
func TestFindsNewerFunctions(t *testing.T) {
	words := append(ours(t), "version", "--json")
	out, err := exec.Command(words[0], words[1:]...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Libtpms struct {
			Version  string
			Profiles bool
		}
	}
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.HasPrefix(v.Libtpms.Version, "0.9.") || !v.Libtpms.Profiles {
		t.Errorf("version --json = %s, want a libtpms with profiles", out)
	}
}

// Commands in hex. nvDefine makes an ordinary NV index of 8 bytes under the
// owner's empty password, nvPublic reads what it is.
const (
	nvDefine   = "8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01000001 000b 00020002 0000 0008"
	nvPublic   = "8001 0000000e 00000169 01000001"
	capVersion = "00c1 00000012 00000065 00000006 00000000" // TPM_GetCapability, TPM_CAP_VERSION
)

// TestStateGoesBothWays checks that the older library reads the state that the newer one has
// written, and the reverse.
func TestStateGoesBothWays(t *testing.T) {
	ld := newer(t)
	for _, v := range []struct {
		name      string
		args      []string
		set, read string
	}{
		{"2.0", []string{"--tpm2"}, nvDefine, nvPublic},
		{"1.2", nil, capVersion, capVersion},
	} {
		t.Run(v.name, func(t *testing.T) {
			args := append([]string{bin, "socket", "--tpmstate", "dir=" + t.TempDir(), "--flags", "startup-clear"}, v.args...)
			young := append(append([]string{}, ld...), args...)
			var made, old, again string
			live(t, young, func(c net.Conn) { ask(t, c, v.set); made = ask(t, c, v.read) })
			live(t, args, func(c net.Conn) { old = ask(t, c, v.read) })
			live(t, young, func(c net.Conn) { again = ask(t, c, v.read) })
			if len(made) < 20 || made[12:20] != "00000000" {
				t.Fatalf("with the newer library: response %s, want success", made)
			}
			if old != made || again != made {
				t.Errorf("newer library: %s\nolder, on its state: %s\nnewer again: %s\nwant the same", made, old, again)
			}
		})
	}
}
