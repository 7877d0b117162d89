package sandbox

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// Policy is the set of operations that a process may still perform. Plan and PlanOffline
// return one, Enter puts it into force.
type Policy struct {
	Seccomp   config.SeccompAction
	Landlock  config.LandlockMode
	Groups    [][]Call // allowed system calls, besides those of checked; refused and fatal return the others
	Files     []File
	Unremoved []string // files that are not removed at the end, because their directory is shared
	Rights    uint32   // capabilities that root retains if a file in Files belongs to another user
	Marks     string   // directory in which files of other users do not count for Rights; "" for none
	Absent    string   // a directory that does not exist yet, so that a rule names its parent; "" for none

	chrooted bool // the process has changed its root directory
}

// File is a file or directory that the process needs after the start.
type File struct {
	Path   string
	Access uint64 // LANDLOCK_ACCESS_FS_*; for a directory, also for everything below it
	Why    string
}

// Access rights of a File.
const (
	readFile  = unix.LANDLOCK_ACCESS_FS_READ_FILE
	readDir   = unix.LANDLOCK_ACCESS_FS_READ_DIR
	writeFile = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	makeFile  = unix.LANDLOCK_ACCESS_FS_MAKE_REG
	remove    = unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	wholeDir  = writeFile | makeFile | remove | readDir
)

const threadsReason = "checks that all threads are confined"

// Plan returns the policy of an emulator after it has opened its sockets and read its keys.
// profile is the file that a reload reads; "" if there is no reload. Plan opens no file, but
// checks which files exist.
func Plan(cfg *config.Config, profile string) Policy {
	p := newPolicy(cfg, descriptorCalls, clientCalls, runtimeCalls, portabilityCalls)
	p.Rights = writeOthers
	switch {
	case cfg.State.Location.Kind == nv.File:
		p.Groups = append(p.Groups, fileCalls)
		if cfg.Metrics.File != "" {
			p.Groups = append(p.Groups, replaceCalls)
		}
	case cfg.State.Location.Kind == nv.Cluster:
		p.Groups = append(p.Groups, clusterCalls)
		if cfg.Metrics.File != "" {
			p.Groups = append(p.Groups, replaceCalls)
		}
		if cfg.Pcap.File != "" || cfg.Pcap.FD >= 0 {
			p.Groups = append(p.Groups, captureCalls)
		}
	case cfg.Pcap.File != "" || cfg.Pcap.FD >= 0:
		p.Groups = append(p.Groups, dirCalls, captureCalls)
	default:
		p.Groups = append(p.Groups, dirCalls)
	}
	if cfg.Service.KeepSession != config.SessionNo && cfg.Interface.Type == config.Socket && !cfg.Daemon {
		p.Groups = append(p.Groups, handoverCalls)
	}
	if profile != "" {
		p.reload(cfg, profile)
	}
	p.state(cfg.State.Location)
	if marks := cfg.Host.Rollback.Marks; marks != "" && unix.Access(marks, unix.W_OK|unix.X_OK) == nil {
		p.allowFile(marks, unix.LANDLOCK_ACCESS_FS_READ_FILE|unix.LANDLOCK_ACCESS_FS_WRITE_FILE|makeFile, "remembers the newest state of the TPM")
		p.Marks = marks
		if !p.allows(lockCalls[0].Name) {
			p.Groups = append(p.Groups, lockCalls)
		}
	}
	p.allowFile(taskDir, readFile|readDir, threadsReason)
	p.allowFile("/proc/locks", readFile, "names the process that holds the lock of the state")
	own := ownFiles(cfg)
	for _, e := range []config.Endpoint{cfg.Interface.Server, cfg.Control.Listen, cfg.Metrics.Listen} {
		if e.Kind == config.Unix {
			p.allowRemoval(e.Path, "removes its socket at the end", own)
		}
	}
	if cfg.PID.File != "" && cfg.PID.FD < 0 {
		p.allowRemoval(cfg.PID.File, "removes its pid file at the end", own)
	}
	if cfg.Metrics.File != "" {
		p.allowFile(filepath.Dir(cfg.Metrics.File), unix.LANDLOCK_ACCESS_FS_WRITE_FILE|makeFile|remove, "replaces the file with the metrics")
	}
	return p
}

// newPolicy returns a policy with groups of calls.
func newPolicy(cfg *config.Config, groups ...[]Call) Policy {
	return Policy{
		Seccomp:  cfg.Sandbox.Seccomp,
		Landlock: cfg.Sandbox.Landlock,
		Groups:   groups,
		Files:    make([]File, 0, 12), // a slice that grows leaves garbage in a size class of its own
		chrooted: cfg.Sandbox.Chroot != "",
	}
}

// Calls returns all allowed system calls. Only tests need the list; a start needs to know
// whether it has a group.
func (p *Policy) Calls() []Call {
	return append(slices.Concat(p.Groups...), checked(uint64(unix.Getpid()))...)
}

// allows reports whether a group has the call.
func (p *Policy) allows(name string) bool { return p.find(name) != nil }

// find returns the call of that name in the groups, nil for none.
func (p *Policy) find(name string) *Call {
	for _, g := range p.Groups {
		for i := range g {
			if g[i].Name == name {
				return &g[i]
			}
		}
	}
	return nil
}

func (p *Policy) allowFile(path string, access uint64, why string) {
	p.Files = append(p.Files, File{Path: path, Access: access, Why: why})
}

// reload adds the operations of a reload, which may replace the log.
func (p *Policy) reload(cfg *config.Config, profile string) {
	p.Groups = append(p.Groups, reloadCalls)
	p.allowFile(filepath.Dir(profile), readFile|readDir, "reads the profile again, or its replacement")
	p.allowFile("/dev/null", unix.LANDLOCK_ACCESS_FS_WRITE_FILE, "a log that is disabled")
	for _, file := range []string{"/etc/passwd", "/etc/group"} {
		p.allowFile(file, readFile, "users and groups in the profile")
	}
	if cfg.Log.File != "" && cfg.Log.File != "-" {
		p.allowFile(filepath.Dir(cfg.Log.File), unix.LANDLOCK_ACCESS_FS_WRITE_FILE|unix.LANDLOCK_ACCESS_FS_TRUNCATE|makeFile, "the log")
	}
}

// state adds the directory, the device, or the directory of the file with the state. Each INIT
// opens the state again. A Landlock rule applies to the directory that exists now, and not
// to another one that later has the same name.
func (p *Policy) state(l nv.Location) {
	dir := l.Path
	if l.Kind == nv.File {
		dir = filepath.Dir(l.Path)
	}
	switch {
	case l.Kind == nv.None, l.Kind == nv.Unsupported: // INIT fails
	case l.Kind == nv.Cluster: // the broker has it
	case l.Kind == nv.File && isDevice(l.Path):
		p.allowFile(l.Path, writeFile|unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, "the state")
	case belongsToOneGuest(dir):
		p.allowFile(filepath.Dir(dir), wholeDir, "the state; its directory may be replaced while the TPM is off")
	case exists(dir):
		p.allowFile(dir, wholeDir, "the state")
	default:
		p.Absent = dir
		p.allowFile(existingParent(dir), wholeDir, "the state; its directory does not exist yet")
	}
}

// belongsToOneGuest reports whether the parent of the state directory belongs to one guest:
// libvirt's state directories are swtpm/UUID/tpm2 and swtpm/UUID/tpm1.2. A rule for the
// parent also applies to a new directory that replaces dir, and to no other guest.
//
// Source: libvirt, src/qemu/qemu_tpm.c, qemuTPMEmulatorStorageBuildPath.
func belongsToOneGuest(dir string) bool {
	parent, name := filepath.Split(dir)
	uuid := filepath.Base(parent)
	if name != "tpm2" && name != "tpm1.2" || len(uuid) != 36 || !exists(parent) {
		return false
	}
	for i, c := range uuid {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdefABCDEF", c) {
			return false
		}
	}
	return true
}

// existingParent returns the nearest parent directory of path that exists.
func existingParent(path string) string {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if exists(dir) || dir == filepath.Dir(dir) {
			return dir
		}
	}
}

func isDevice(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK
}

func exists(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil
}
