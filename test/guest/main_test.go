// Package guest_test runs virtual machines with our emulator as their TPM: QEMU
// without KVM, Debian's kernel with its own drivers, and a program in the guest
// that does what the test says (init). make guest fetches the kernel and calls it.
package guest_test

import (
	"bytes"
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
	if err := harness.Build(dir, nil, "swtpm", "swtpm-admin", "swtpm-setup"); err != nil {
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
	initrd = filepath.Join(dir, "initrd")
	fs := archive("init", b)
	initrdSize = len(fs)
	if err := os.WriteFile(initrd, fs, 0o600); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// archive returns an initramfs with one program in it, a cpio archive: for each
// file the magic number 070701 and 13 numbers of 8 hex digits (inode, mode, uid,
// gid, links, time, size, 4 device numbers, length of the name, checksum), the
// name, the bytes, each padded to 4 bytes.
//
// Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
func archive(name string, program []byte) []byte {
	var b bytes.Buffer
	pad := func() { b.Write(make([]byte, -b.Len()&3)) }
	for i, f := range []struct {
		name string
		mode int
		body []byte
	}{
		{"dev", 0o040755, nil},
		{"dev/console", 0o020600, nil}, // 5, 1; what init says before it has a terminal
		{name, 0o100755, program},
		{"TRAILER!!!", 0, nil},
	} {
		major, minor := 0, 0
		if f.mode == 0o020600 {
			major, minor = 5, 1
		}
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			i+1, f.mode, 0, 0, 1, 0, len(f.body), 0, 0, major, minor, len(f.name)+1, 0, f.name)
		pad()
		b.Write(f.body)
		pad()
	}
	return b.Bytes()
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
