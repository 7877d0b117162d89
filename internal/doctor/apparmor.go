package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// apparmor looks whether a profile of AppArmor that confines this program would
// keep it from what the TPM's profile names. The kernel tells which one that is;
// what it allows is read in the text that it was made of, so it may be another by
// now: what is found is a Warning.
func (x *exam) apparmor() {
	on, err := os.ReadFile(filepath.Join(x.root, "/sys/module/apparmor/parameters/enabled"))
	if err != nil || !strings.HasPrefix(string(on), "Y") {
		return
	}
	exe, err := os.Executable()
	if err != nil {
		return
	}
	name, mode, known := x.confinement(exe)
	switch {
	case !known:
		x.add(Note, "", "look again as root", "AppArmor is on; whether it confines %s cannot be seen", exe)
		return
	case name == "" || mode != "enforce":
		return
	}
	policy, file := x.policy(name, exe)
	if file == "" {
		x.add(Warning, name, "see that it allows the files of the TPM", "AppArmor confines this program, and the text of its profile was not found")
		return
	}
	local := "/etc/apparmor.d/local/" + filepath.Base(file)
	for _, need := range x.needs() {
		if !policy.allows(need.path, need.perms) {
			x.add(Warning, need.path, fmt.Sprintf("add to %s the line: owner %s %s,  and load it: apparmor_parser -r %s", local, need.path, need.perms, file),
				"the AppArmor profile %q, which is enforced for this program, does not allow %q there", name, need.perms)
		}
	}
}

// confinement returns the name and the mode of the profile that the kernel puts
// on exe when it is started, "" if there is none. known is false if the kernel
// does not tell us.
func (x *exam) confinement(exe string) (name, mode string, known bool) {
	top := filepath.Join(x.root, "/sys/kernel/security/apparmor/policy/profiles")
	entries, err := os.ReadDir(top)
	if err != nil {
		return "", "", false
	}
	read := func(e os.DirEntry, what string) string {
		b, _ := os.ReadFile(filepath.Join(top, e.Name(), what))
		return strings.TrimSpace(string(b))
	}
	for _, e := range entries {
		if attach := read(e, "attach"); attach != "" && matchGlob(attach, exe) {
			return read(e, "name"), read(e, "mode"), true
		}
	}
	return "", "", true
}

// policy reads the text of the profile: the file in /etc/apparmor.d that is named
// for it or for the program.
func (x *exam) policy(name, exe string) (p policy, file string) {
	for _, f := range []string{name, strings.ReplaceAll(strings.TrimPrefix(exe, "/"), "/", "."), strings.ReplaceAll(strings.TrimPrefix(name, "/"), "/", "."), "usr.bin.swtpm"} {
		file := filepath.Join("/etc/apparmor.d", f)
		if strings.Contains(f, "/") {
			continue
		}
		p := newPolicy(func(path string) (string, error) {
			b, err := os.ReadFile(filepath.Join(x.root, path))
			return string(b), err
		})
		if p.load(file, 0) == nil {
			return p, file
		}
	}
	return policy{}, ""
}

// need is a path that the TPM uses, and how: r, w, k as in a profile of AppArmor.
type need struct{ path, perms string }

func (x *exam) needs() (list []need) {
	scheme, path := x.statePath()
	switch scheme {
	case "dir":
		list = append(list, need{filepath.Join(path, x.prefix()+"permall"), "rw"}, need{filepath.Join(path, ".lock"), "wk"})
	case "file":
		list = append(list, need{path, "rw"})
	}
	for _, p := range []string{x.cfg.Interface.Server.Path, x.cfg.Control.Listen.Path} {
		if p != "" {
			list = append(list, need{p, "rw"})
		}
	}
	for _, p := range []string{x.cfg.Key.Path, x.cfg.MigrationKey.Path} {
		if p != "" {
			list = append(list, need{p, "r"})
		}
	}
	for _, p := range []string{x.cfg.Log.File, x.cfg.PID.File, x.cfg.Pcap.File} {
		if p != "" && p != "-" {
			list = append(list, need{p, "w"})
		}
	}
	for i, n := range list {
		if abs, err := filepath.Abs(n.path); err == nil {
			list[i].path = abs
		}
	}
	return list
}
