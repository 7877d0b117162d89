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
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/record"
)

// binVar is the environment variable that leads to the programs under test. If it
// is set already nothing is built: a package's programs can be tested.
const binVar = "SWTPM_TEST_BIN"

// The user ID and group ID that tests of root change to.
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
	harness.ClearEnvironment()
	choose()
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
	recorder, err := record.Start()
	if err != nil {
		return 1, err
	}
	flags := recorder.BuildFlags()
	if f := os.Getenv(raced); f != "" {
		flags = append(flags, f)
	}
	if err := harness.Build(bin, flags, "swtpm", "swtpm-ioctl", "swtpm-bios", "swtpm-cert", "swtpm-localca", "swtpm-setup", "swtpm-admin", "swtpm-store"); err != nil {
		return 1, err
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

// needRoot skips a test that only root can run.
func needRoot(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("needs root: %s", why)
	}
}
