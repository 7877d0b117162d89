package sandbox

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
)

// Policy is what a process that runs a TPM may still do. Plan or AtRest makes it, Enter
// puts it into force; nothing else knows what it means.
type Policy struct {
	Seccomp  config.SeccompAction
	Landlock config.LandlockMode
	Calls    []Call    // the system calls that are allowed
	Refused  []Refusal // those that fail with an errno of their own; all others fail with ENOSYS
	Fatal    []Call    // those that only an attacker makes: Seccomp says what happens
	Places   []Place
	Stays    []string // files that are not removed at the end, because others have files in the same directory
	Rights   uint32   // capabilities that root keeps if a file of a Place is somebody else's
	Later    string   // a place that is not there yet, so that a rule names what is above it; "" for none

	jailed bool // the root directory is one of the TPM's own
}

// Place is a file or directory that is needed after the start.
type Place struct {
	Path   string
	Access uint64 // LANDLOCK_ACCESS_FS_*, for what is beneath if it is a directory
	Why    string
}

// What a place is needed for.
const (
	readFile  = unix.LANDLOCK_ACCESS_FS_READ_FILE
	readDir   = unix.LANDLOCK_ACCESS_FS_READ_DIR
	writeFile = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	makeFile  = unix.LANDLOCK_ACCESS_FS_MAKE_REG
	remove    = unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	wholeDir  = writeFile | makeFile | remove | readDir
)

const whyThreads = "the threads: whether all of them have lost what they should"

// Plan returns what the TPM of cfg needs once its sockets are open and its keys
// are read. profile is the file that is read again when the log's settings are to
// change; "" if they cannot. It opens nothing, but looks whether the state is there.
func Plan(cfg *config.Config, profile string) Policy {
	p := newPolicy(cfg, always)
	p.Rights = writeOthers
	switch {
	case cfg.State.Location.Kind == nv.File:
		p.Calls = append(p.Calls, inFile...)
		if cfg.Metrics.File != "" {
			p.Calls = append(p.Calls, replaced)
		}
	case cfg.Pcap.File != "" || cfg.Pcap.FD >= 0:
		p.Calls = slices.Concat(p.Calls, inDir, recorded)
	default:
		p.Calls = append(p.Calls, inDir...)
	}
	if cfg.Service.KeepSession != config.SessionNo && cfg.Interface.Type == config.Socket && !cfg.Daemon {
		p.Calls = append(p.Calls, kept...)
	}
	if profile != "" {
		p.reload(cfg, profile)
	}
	p.state(cfg.State.Location)
	p.place(taskDir, readFile|readDir, whyThreads)
	p.place("/proc/locks", readFile, "says who holds the lock of the state")
	ours := ownFiles(cfg)
	for _, e := range []config.Endpoint{cfg.Interface.Server, cfg.Control.Listen, cfg.Metrics.Listen} {
		if e.Kind == config.Unix {
			p.mayRemove(e.Path, "its socket goes when the process ends", ours)
		}
	}
	if cfg.PID.File != "" && cfg.PID.FD < 0 {
		p.mayRemove(cfg.PID.File, "its pid file goes when the process ends", ours)
	}
	if cfg.Metrics.Listen.Kind != config.None {
		p.Calls = append(p.Calls, measured...)
	}
	if cfg.Metrics.File != "" {
		p.place(filepath.Dir(cfg.Metrics.File), unix.LANDLOCK_ACCESS_FS_WRITE_FILE|makeFile|remove, "the file with the metrics is replaced")
	}
	return p
}

// newPolicy returns the policy of cfg with these calls and those whose arguments are
// checked.
func newPolicy(cfg *config.Config, calls []Call) Policy {
	pid := uint64(unix.Getpid())
	return Policy{
		Seccomp:  cfg.Sandbox.Seccomp,
		Landlock: cfg.Sandbox.Landlock,
		Calls:    slices.Concat(calls, checked(pid)),
		Refused:  refused(),
		Fatal:    fatal(pid),
		jailed:   cfg.Sandbox.Chroot != "",
	}
}

func (p *Policy) place(path string, access uint64, why string) {
	p.Places = append(p.Places, Place{Path: path, Access: access, Why: why})
}

// reload adds what a reload takes. The log may begin anew next to the old one.
func (p *Policy) reload(cfg *config.Config, profile string) {
	p.Calls = append(p.Calls, reloaded)
	p.place(filepath.Dir(profile), readFile|readDir, "the profile is read again, or the one in its place")
	p.place("/dev/null", unix.LANDLOCK_ACCESS_FS_WRITE_FILE, "a log of nothing")
	for _, file := range []string{"/etc/passwd", "/etc/group"} {
		p.place(file, readFile, "users whom the profile names")
	}
	if cfg.Log.File != "" && cfg.Log.File != "-" {
		p.place(filepath.Dir(cfg.Log.File), unix.LANDLOCK_ACCESS_FS_WRITE_FILE|unix.LANDLOCK_ACCESS_FS_TRUNCATE|makeFile, "the log")
	}
}

// state adds the place of the state: its own directory, its own device, or the
// directory of its own file. It is opened again by each INIT, and the file may
// then be made, or be another one: a rule names what is there now, whatever its name
// is later.
func (p *Policy) state(l nv.Location) {
	dir := l.Path
	if l.Kind == nv.File {
		dir = filepath.Dir(l.Path)
	}
	switch {
	case l.Kind == nv.None, l.Kind == nv.Unsupported: // INIT fails
	case l.Kind == nv.File && isDevice(l.Path):
		p.place(l.Path, writeFile|unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, "the state")
	case ofOneGuest(dir):
		p.place(filepath.Dir(dir), wholeDir, "the state, whose directory may be replaced while the TPM is off")
	case exists(dir):
		p.place(dir, wholeDir, "the state")
	default:
		p.Later = dir
		p.place(above(dir), wholeDir, "the state, whose directory somebody is yet to make in it")
	}
}

// ofOneGuest reports whether what is above the state's directory belongs to the same
// guest: libvirt has the state in swtpm/UUID/tpm2 or swtpm/UUID/tpm1.2. A rule for the
// directory above also covers one that takes the place of dir, which a rule for dir
// does not, and no other guest's.
//
// Source: libvirt, src/qemu/qemu_tpm.c, qemuTPMEmulatorStorageBuildPath.
func ofOneGuest(dir string) bool {
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

// above returns the nearest directory above path that is there.
func above(path string) string {
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
