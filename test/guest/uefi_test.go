package guest_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/cmd/swtpm-admin/boots/eventlog"
	"github.com/swtpm-go/swtpm/test/harness"
)

// Files of Debian's packages ovmf and systemd-boot-efi.
const (
	ovmf = "/usr/share/OVMF/"
	stub = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
)

// commandLine is the kernel's. Without no_timer_check, a kernel on a busy machine panics because
// of a late timer.
const commandLine = "console=ttyS0 quiet no_timer_check"

// uefiMachine is the part of a machine that a boot measures.
type uefiMachine struct {
	code   string // firmware
	vars   string // variable store; a boot works on a copy
	disks  []string
	volume string // encrypted, shared with the guest as memory; may be empty
}

// workshop makes what machines boot from.
type workshop struct {
	dir, kernel, initrd string
	made                int
}

func (w *workshop) path(name string) string {
	w.made++
	return filepath.Join(w.dir, fmt.Sprintf("%d-%s", w.made, name))
}

func (w *workshop) write(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := w.path(name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// disk returns a directory with a unified kernel image, which QEMU presents as a disk.
func (w *workshop) disk(t *testing.T, kernel, cmdline string) string {
	t.Helper()
	dir := w.path("esp")
	if err := os.MkdirAll(filepath.Join(dir, "EFI/BOOT"), 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{}
	for i, s := range []struct{ name, file string }{
		{".osrel", w.write(t, "osrel", []byte("ID=guest\n"))}, {".cmdline", w.write(t, "cmdline", []byte(cmdline))}, {".linux", kernel}, {".initrd", w.initrd},
	} {
		address := []int{0x20000, 0x30000, 0x2000000, 0x4000000}[i]
		args = append(args, "--add-section", s.name+"="+s.file, "--change-section-vma", fmt.Sprintf("%s=%#x", s.name, address))
	}
	cmd := exec.Command(need(t, "objcopy", "binutils"), append(args, stub, filepath.Join(dir, "EFI/BOOT/BOOTX64.EFI"))...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return dir
}

// otherKernel returns the kernel with another version in its header.
func (w *workshop) otherKernel(t *testing.T) string {
	t.Helper()
	b := []byte(harness.Read(t, w.kernel))
	at := bytes.Index(b, []byte("debian-kernel@lists.debian.org"))
	if at < 0 {
		t.Fatal("the kernel has no text of its version")
	}
	b[at] ^= 0x20
	return w.write(t, "vmlinuz", b)
}

// keysWithoutEnforcement returns Microsoft's variable store with Secure Boot switched off:
// an unsigned image boots, and all keys are measured.
func (w *workshop) keysWithoutEnforcement(t *testing.T) string {
	t.Helper()
	return w.changeVariable(t, ovmf+"OVMF_VARS_4M.ms.fd", "SecureBootEnable", func(data []byte) { data[0] = 0 })
}

// changeDBX returns a variable store with another digest in dbx.
func (w *workshop) changeDBX(t *testing.T, vars string) string {
	t.Helper()
	return w.changeVariable(t, vars, "dbx", func(data []byte) { data[len(data)-1] ^= 1 })
}

func (w *workshop) changeVariable(t *testing.T, vars, name string, change func(data []byte)) string {
	t.Helper()
	b := []byte(harness.Read(t, vars))
	all, err := eventlog.ParseVariables(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all {
		if v.Name == name {
			change(v.Data) // a part of b
			return w.write(t, "VARS.fd", b)
		}
	}
	t.Fatalf("%s has no variable %s", vars, name)
	return ""
}

// boot boots the machine with a copy of its variables and returns it and the copy.
func (m *uefiMachine) boot(t *testing.T, w *workshop, e *emulator) (v *machine, vars string) {
	t.Helper()
	vars = w.write(t, "VARS.fd", []byte(harness.Read(t, m.vars)))
	v = m.start(t, e, vars)
	v.booted(t)
	return v, vars
}

// start starts the machine with a variable store that it may write.
func (m *uefiMachine) start(t *testing.T, e *emulator, vars string) *machine {
	t.Helper()
	args := []string{
		"-machine", "q35,smm=on", "-m", "320",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + m.code, "-drive", "if=pflash,format=raw,unit=1,file=" + vars,
	}
	if strings.Contains(m.code, "secboot") { // another firmware could not write its variables
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	for i, d := range m.disks {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=raw,readonly=on,file=fat:%s", i, d), "-device", fmt.Sprintf("virtio-blk-pci,drive=d%d,bootindex=%d", i, i))
	}
	if m.volume != "" {
		args = append(args, shareArgs(m.volume)...)
	}
	return runQEMU(t, "tpm-crb", e, args...)
}
