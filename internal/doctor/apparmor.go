package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// maxPolicy is more than any profile of AppArmor has, in bytes.
const maxPolicy = 1 << 20

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
	told := ""
	for _, need := range x.needs() {
		if need.rule != told && !policy.allows(need.path, need.perms) {
			told = need.rule
			x.add(Warning, need.path, fmt.Sprintf("add to %s the line: owner %s,  and load it: apparmor_parser -r %s", local, need.rule, file),
				"the AppArmor profile %q, which is enforced for this program, does not allow %q there", name, need.perms)
		}
	}
}

// confinement returns the name and the mode of the profile that the kernel puts
// on exe when it is started, "" if there is none. known is false if the kernel
// does not tell us. It has put it on this process, too, if that was not started by
// aa-exec(1) or the like, and then keeps the list of profiles from us.
func (x *exam) confinement(exe string) (name, mode string, known bool) {
	own, _ := os.ReadFile(filepath.Join(x.root, "/proc/self/attr/apparmor/current"))
	if name, mode, ok := strings.Cut(strings.TrimSpace(string(own)), " ("); ok {
		return name, strings.TrimSuffix(mode, ")"), true
	}
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
			b, err := safefile.ReadInput(filepath.Join(x.root, path), maxPolicy)
			return string(b), err
		})
		if p.load(file, 0) == nil {
			return p, file
		}
	}
	return policy{}, ""
}

// need is a path that the TPM uses, and how: r, w, k as in a profile of AppArmor.
type need struct {
	path, perms string
	rule        string // what allows it, and what belongs to it
}

func (x *exam) needs() (list []need) {
	add := func(path, perms string) {
		if abs, err := filepath.Abs(path); err == nil {
			list = append(list, need{abs, perms, abs + " " + perms})
		}
	}
	path := x.cfg.State.Location.Path
	switch x.cfg.State.Location.Kind {
	case nv.Directory:
		add(filepath.Join(path, x.prefix()+"permall"), "rw")
		add(filepath.Join(path, ".lock"), "wk")
		for i := range list { // the directory is read, and new files replace the old ones
			list[i].rule = filepath.Dir(list[i].path) + "/{,**} rwk"
		}
	case nv.File:
		add(path, "rw")
	}
	for _, p := range []string{x.cfg.Interface.Server.Path, x.cfg.Control.Listen.Path} {
		if p != "" {
			add(p, "rw")
		}
	}
	for _, p := range []string{x.cfg.Key.Path, x.cfg.MigrationKey.Path} {
		if p != "" {
			add(p, "r")
		}
	}
	for _, p := range []string{x.cfg.Log.File, x.cfg.PID.File, x.cfg.Pcap.File} {
		if p != "" && p != "-" {
			add(p, "w")
		}
	}
	return list
}
