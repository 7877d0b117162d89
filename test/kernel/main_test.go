// Package kernel_test boots a kernel of Debian's in QEMU, without KVM, with a small
// Debian that has systemd, udev and tpm2-tools, our programs, units and policies as
// they are installed, and package inside, whose tests it runs there. make kernel
// prepares all that and calls it.
package kernel_test

import (
	"cmp"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	dirVar   = "SWTPM_KERNEL" // names the directory with root.cpio and install/
	guestVar = "SWTPM_GUEST"  // names that with vmlinux and modules/

	// patience is the longest life of the machine: it boots in ten seconds, and in minutes on a
	// busy host.
	patience = 40 * time.Minute
)

// unit is what the machine boots to. The second serial port has the output of the
// tests, and after it the exit code.
const unit = `[Unit]
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
StandardOutput=null
ExecStart=/bin/sh /tests/run
`

const script = `exec >/dev/ttyS1 2>&1 </dev/null
stty -opost </dev/ttyS1
modules=/lib/modules/$(uname -r)
mkdir -p $modules && cp /tests/*.ko* $modules && depmod 2>/dev/null
systemd-sysusers && systemd-tmpfiles --create
echo 0 >/proc/sys/kernel/printk_ratelimit # all that is denied is told
cp /usr/share/doc/swtpm-go/apparmor/* /etc/apparmor.d
apparmor_parser -r /etc/apparmor.d/usr.bin.swtpm /etc/apparmor.d/swtpm-manufacture || echo "no profile of AppArmor"
cd /tests && timeout 2280 ./inside -test.v -test.timeout 37m -test.run "$(cat which)"
echo "exit code $?"
poweroff -ff
`

// runVar may have the tests in the machine that are to run, as go test -run takes it.
const runVar = "SWTPM_KERNEL_RUN"

// TestInside runs the tests of package inside in the machine, with AppArmor on and our profiles
// loaded.
func TestInside(t *testing.T) {
	boot(t, "apparmor=1 security=apparmor", cmp.Or(os.Getenv(runVar), "."))
}

// boot starts the machine with words for its kernel and runs the tests in it that
// match the expression.
func boot(t *testing.T, words, run string) {
	t.Helper()
	dir, guest := os.Getenv(dirVar), os.Getenv(guestVar)
	if dir == "" || guest == "" {
		t.Skipf("$%s and $%s are not set: run make kernel", dirVar, guestVar)
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatalf("qemu-system-x86_64 is not installed: install the package qemu-system-x86")
	}
	tests := t.TempDir()
	initrd := filepath.Join(tests, "initrd")
	if err := join(initrd, filepath.Join(dir, "root.cpio"), overlay(t, dir, guest, run)); err != nil {
		t.Fatal(err)
	}
	out, console := filepath.Join(tests, "out"), filepath.Join(tests, "console")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-accel", "tcg", "-machine", "q35", "-m", "1400", "-smp", "2",
		"-cpu", "max,vendor=GenuineIntel", "-no-user-config", "-nodefaults", "-display", "none", "-bios", "qboot.rom", "-no-reboot",
		"-kernel", filepath.Join(guest, "vmlinux"), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 rdinit=/lib/systemd/systemd systemd.unit=tests.service systemd.show_status=0 no_console_suspend "+words,
		"-serial", "file:"+console, "-serial", "file:"+out)
	text, err := cmd.CombinedOutput()
	said := read(t, out)
	t.Logf("the tests in the machine:\n%s", said)
	if err != nil || !regexp.MustCompile(`(?m)^exit code 0\r?$`).MatchString(said) {
		t.Errorf("the machine ended with %v; QEMU: %s; its console:\n%s", err, text, read(t, console))
	}
	if !strings.Contains(said, "--- PASS") {
		t.Errorf("no test has run")
	}
}

// overlay returns a cpio archive of what goes on top of the root file system.
func overlay(t *testing.T, dir, guest, run string) string {
	t.Helper()
	top := t.TempDir()
	tests := filepath.Join(top, "tests")
	for _, d := range []string{tests, filepath.Join(top, "usr/lib/systemd/system")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range map[string]string{"tests/run": script, "tests/which": run, "usr/lib/systemd/system/tests.service": unit} {
		if err := os.WriteFile(filepath.Join(top, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "test", "-c", "-o", filepath.Join(tests, "inside"), "./inside")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	archive := filepath.Join(t.TempDir(), "overlay")
	for _, cmd := range []*exec.Cmd{
		build,
		exec.Command("sh", "-c", `cp -R "$1"/install/. "$2" && cp "$3"/modules/* "$2"/tests && mkdir -p "$1"/profiles && cp -R "$1"/profiles "$2"/tests`, "sh", dir, top, guest),
		exec.Command("sh", "-c", `cd "$1" && find . -print0 | cpio --quiet -0 -o -H newc -R 0:0 >"$2"`, "sh", top, archive),
	} {
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, text)
		}
	}
	return archive
}

// join writes one file after the other; the kernel unpacks both.
func join(to string, from ...string) error {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, name := range from {
		in, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		_ = in.Close()
		if err != nil {
			return err
		}
	}
	return out.Close()
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}
