package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// stateTypes are the file types that a confined emulator may write.
//
// Source: swtpm, src/selinux/swtpm.te, swtpm_svirt.te.
var stateTypes = []string{"virt_var_lib_t", "svirt_image_t", "qemu_var_run_t", "virt_var_run_t", "svirt_tmp_t", "swtpm_var_lib_t"}

// selinux checks whether SELinux would deny a confined emulator access to its state.
func (x *examination) selinux() {
	enforce, err := os.ReadFile(filepath.Join(x.root, "/sys/fs/selinux/enforce"))
	if err != nil || strings.TrimSpace(string(enforce)) != "1" {
		return
	}
	path := x.cfg.State.Location.Path
	label := x.label(path)
	kind := typeOfLabel(label)
	if kind == "" || slices.Contains(stateTypes, kind) {
		return
	}
	s := Note
	exe, _ := os.Executable()
	if typeOfLabel(x.label(exe)) == "swtpm_exec_t" {
		s = Warning
	}
	x.add(s, path, "if access is denied (ausearch -m avc -c swtpm), label it: semanage fcontext -a -t virt_var_lib_t '"+path+"(/.*)?' && restorecon -R "+path,
		"SELinux is enforcing, and a confined emulator, as started by libvirt, may not write files with the label %q", label)
}

// label returns the SELinux label of a file, "" if it is unknown.
func (x *examination) label(path string) string {
	b := make([]byte, 256)
	n, err := unix.Getxattr(filepath.Join(x.root, path), "security.selinux", b)
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b[:n]), "\x00")
}

// typeOfLabel returns the type in user:role:type:level.
func typeOfLabel(label string) string {
	if f := strings.Split(label, ":"); len(f) >= 3 {
		return f[2]
	}
	return ""
}
