// Package e2e_test runs the built programs and talks to them as their users do:
// with tpm2-tools, the reference's swtpm and swtpm_ioctl, raw bytes, signals,
// full disks and power cuts.
//
// A program that a test needs and that is not installed skips it, with the name
// of the package to install; with SWTPM_TEST_REQUIRE=1, as CI sets it, it fails.
package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/record"
)

// binVar is the environment variable that leads to the programs under test. If it
// is set already nothing is built: a package's programs can be tested.
const binVar = "SWTPM_TEST_BIN"

// nobody is the user and the group that tests become when they run as root.
const nobody = 65534

func TestMain(m *testing.M) {
	// Programs that are started inherit what is ignored, as under nohup; what is
	// caught is as usual for them.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// buildAndRun builds the programs once, under the names they are installed by,
// and runs the tests. $SWTPM_TEST_BUILDFLAGS may hold one flag, such as -race.
func buildAndRun(m *testing.M) (int, error) {
	for _, v := range []string{"TPM_PORT", "TPM_PATH", "NOTIFY_SOCKET", "JOURNAL_STREAM", "POSIXLY_CORRECT", "TPM2TOOLS_TCTI"} {
		os.Unsetenv(v)
	}
	if os.Getenv(binVar) != "" {
		return m.Run(), nil
	}
	bin, err := os.MkdirTemp("", "e2e-bin")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(bin)
	if err := os.Chmod(bin, 0o755); err != nil { // for tests that give up root
		return 1, err
	}
	args := []string{"build", "-o", bin + "/"}
	recorder, err := record.Start()
	if err != nil {
		return 1, err
	}
	args = append(args, recorder.BuildFlags()...)
	if f := os.Getenv("SWTPM_TEST_BUILDFLAGS"); f != "" {
		args = append(args, f)
	}
	build := exec.Command("go", append(args, "../../cmd/swtpm", "../../cmd/swtpm-ioctl", "../../cmd/swtpm-bios", "../../cmd/swtpm-cert", "../../cmd/swtpm-localca", "../../cmd/swtpm-setup", "../../cmd/swtpm-admin")...)
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("%v: %w\n%s", build, err, out)
	}
	for _, name := range []string{"swtpm-ioctl", "swtpm-bios", "swtpm-cert", "swtpm-localca", "swtpm-setup"} {
		alias := strings.ReplaceAll(name, "-", "_")
		if err := os.Link(filepath.Join(bin, name), filepath.Join(bin, alias)); err != nil {
			return 1, err
		}
	}
	os.Setenv(binVar, bin)
	code := m.Run()
	return code, recorder.Judge(true)
}

// ours returns the path of a program under test.
func ours(name string) string { return filepath.Join(os.Getenv(binVar), name) }

// need returns the path of an installed program, or skips the test.
func need(t testing.TB, program, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		missing(t, "%s is not installed: install the package %s", program, pkg)
	}
	return path
}

// needRoot skips a test that only root can run.
func needRoot(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("needs root: %s", why)
	}
}

// missing skips the test, or fails it where nothing may be missing.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("SWTPM_TEST_REQUIRE") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// tempDir is t.TempDir with a path that is short enough for Unix sockets and
// that any user may enter.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
