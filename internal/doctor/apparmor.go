package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/swtpm-go/swtpm/internal/nv"
	"github.com/swtpm-go/swtpm/internal/safefile"
)

// maxPolicy is the limit for the size of an AppArmor profile, in bytes.
const maxPolicy = 1 << 20

// apparmor checks whether the AppArmor profile of this program denies access to the TPM's files.
// The kernel knows the name of the profile. The rules are read from its source text, which
// may differ from the loaded profile; therefore, findings are warnings.
func (x *examination) apparmor() {
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
		x.add(Note, "", "run the doctor as root", "AppArmor is enabled; only root can see whether it confines %s", exe)
		return
	case name == "" || mode != "enforce":
		return
	}
	policy, file := x.policy(name, exe)
	if file == "" {
		x.add(Warning, name, "check that it allows the files of the TPM", "AppArmor confines this program; the source of its profile was not found")
		return
	}
	local := "/etc/apparmor.d/local/" + filepath.Base(file)
	reported := ""
	for _, need := range x.needs() {
		if need.rule != reported && !policy.allows(need.path, need.perms) {
			reported = need.rule
			x.add(Warning, need.path, fmt.Sprintf("add to %s the line: owner %s,  and load it: apparmor_parser -r %s", local, need.rule, file),
				"the AppArmor profile %q, which is enforced for this program, does not allow %q there", name, need.perms)
		}
	}
}

// confinement returns the name and the mode of the profile that confines exe, "" for none. known
// is false if this process may not read the list of profiles. A confined process, which may
// not read it either, has the same profile as exe, unless it was started by aa-exec(1) or
// similar.
func (x *examination) confinement(exe string) (name, mode string, known bool) {
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

// policy reads the source of the profile: the file in /etc/apparmor.d with the name of the profile
// or of the program.
func (x *examination) policy(name, exe string) (p policy, file string) {
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

// need is a path that the TPM uses, with permissions (r, w, k) as in an AppArmor profile.
type need struct {
	path, perms string
	rule        string // a rule that allows it and related paths
}

func (x *examination) needs() (list []need) {
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
		for i := range list { // the directory is listed, and new files replace old ones
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
