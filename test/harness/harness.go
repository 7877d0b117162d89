// Package harness has the tools that several test packages share: it builds and runs
// programs, waits for conditions, finds installed programs, decodes hex, and replaces
// systemd's descriptor store.
package harness

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// EventTimeout is the time that a test waits for an expected event before it fails. Tests
// assert no times.
const EventTimeout = 2 * time.Minute

// pause is the time between two checks of a condition.
const pause = 5 * time.Millisecond

// RequireVar is the environment variable that turns a skip because of a missing program into
// a failure, if it is set to 1.
const RequireVar = "SWTPM_TEST_REQUIRE"

// Until waits until cond returns true.
func Until(cond func() bool) error {
	for end := time.Now().Add(EventTimeout); time.Now().Before(end); time.Sleep(pause) {
		if cond() {
			return nil
		}
	}
	return errors.New("the expected event did not occur")
}

// Await waits until cond returns true; otherwise the test fails and names the event.
func Await(t testing.TB, event string, cond func() bool) {
	t.Helper()
	if err := Until(cond); err != nil {
		t.Fatalf("%s: %v", event, err)
	}
}

// Need returns the path of an installed program. If the program is missing, the test is
// skipped, or fails with SWTPM_TEST_REQUIRE=1.
func Need(t testing.TB, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		Missing(t, "%s is not installed: install the package %s", program, pkg)
	}
	return path
}

// Reference returns the path of the installed reference, Debian's swtpm.
func Reference(t testing.TB) string {
	t.Helper()
	return Need(t, "swtpm", "swtpm")
}

// Missing skips the test, or fails it with SWTPM_TEST_REQUIRE=1.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(RequireVar) == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// TempDir makes a directory that is removed with the test. Unlike the path of t.TempDir,
// its path is short enough for Unix sockets, has no comma, and any user may enter it.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Read returns a file's content, "" if the file is missing.
func Read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

// Unhex decodes hex with blanks; "00*16" is 16 zero bytes. It panics at other text, since
// only constants of tests are decoded.
func Unhex(s string) []byte {
	var b []byte
	for word := range strings.FieldsSeq(s) {
		word, count, repeated := strings.Cut(word, "*")
		part, err := hex.DecodeString(word)
		if err != nil {
			panic(err)
		}
		if repeated {
			n, err := strconv.Atoi(count)
			if err != nil {
				panic(err)
			}
			part = bytes.Repeat(part, n)
		}
		b = append(b, part...)
	}
	return b
}

// ClearEnvironment unsets the environment variables that change what the programs do.
func ClearEnvironment() {
	for _, v := range []string{"TPM_PORT", "TPM_PATH", "NOTIFY_SOCKET", "JOURNAL_STREAM", "POSIXLY_CORRECT", "TPM2TOOLS_TCTI"} {
		_ = os.Unsetenv(v)
	}
}

// released are the flags of `make build`.
var released = []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w",
	"-ldflags=github.com/swtpm-go/swtpm/cmd/swtpm=-s -w -X=runtime.godebugDefault=containermaxprocs=0,decoratemappings=0,updatemaxprocs=0,profstackdepth=0"}

// Build clears the environment and builds commands of this module, such as "swtpm", into
// dir. The working directory must be two levels below the module's root. Without flags the
// programs are those of `make build`: the go command links a copy from bin again only if it is
// out of date.
func Build(dir string, flags []string, commands ...string) error {
	ClearEnvironment()
	if len(flags) == 0 {
		flags = released
		for _, c := range commands {
			if b, err := os.ReadFile("../../bin/" + c); err == nil {
				_ = os.WriteFile(filepath.Join(dir, c), b, 0o755)
			}
		}
	}
	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, flags...)
	for _, c := range commands {
		args = append(args, "../../cmd/"+c)
	}
	build := exec.Command("go", args...)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", build, err, out)
	}
	return nil
}
