// Package guest_test runs virtual machines with our emulator as their TPM: QEMU
// without KVM, Debian's kernel with its own drivers, and a program in the guest
// that does what the test says (init). make guest fetches the kernel and calls it.
package guest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
)

// dirVar names the directory that fetch.sh has filled.
const dirVar = "SWTPM_GUEST"

// Our program, the kernel and the initial file system of the guest.
var (
	bin, kernel, initrd string
	initrdSize          int
	initProgram         []byte
)

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		code = 1
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	if os.Getenv(dirVar) == "" {
		return m.Run(), nil // all is skipped
	}
	kernel = filepath.Join(os.Getenv(dirVar), "vmlinux")
	if _, err := os.Stat(kernel); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	bin = filepath.Join(dir, "swtpm")
	if err := harness.Build(dir, nil, "swtpm", "swtpm-admin", "swtpm-setup", "swtpm-store"); err != nil {
		return 1, err
	}
	program := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-o", program, "./init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("%v: %w\n%s", build, err, text)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		return 1, err
	}
	initProgram = b
	initrd = filepath.Join(dir, "initrd")
	fs := archive([]archived{{name: "init", mode: 0o100755, body: b}})
	initrdSize = len(fs)
	if err := os.WriteFile(initrd, fs, 0o600); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// need returns the path of an installed program, or skips the test; nothing may
// be missing where the kernel exists.
func need(t *testing.T, program, pkg string) string {
	t.Helper()
	if os.Getenv(dirVar) == "" {
		t.Skipf("$%s is not set: run make guest", dirVar)
	}
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is not installed: install the package %s", program, pkg)
	}
	return path
}
