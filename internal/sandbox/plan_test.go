package sandbox

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
	"github.com/swtpm-go/swtpm/internal/nv"
)

func plan(t *testing.T, args ...string) Policy {
	t.Helper()
	cfg, err := config.Classic("socket", args, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	return Plan(cfg, "/etc/swtpm/vm1.toml")
}

// TestCalls checks that each call has a reason, that calls with which a process can escape are
// fatal, and that the arguments of calls with other uses are checked. make record checks
// that each call is needed.
func TestCalls(t *testing.T) {
	p := plan(t, "--tpmstate", "dir="+t.TempDir())
	checks := map[string][]string{}
	for _, c := range p.Calls() {
		if _, twice := checks[c.Name]; twice && len(c.Check) == 0 {
			t.Errorf("duplicate call %s", c.Name)
		}
		if c.Why == "" {
			t.Errorf("%s has no reason", c.Name)
		}
		checks[c.Name] = append(checks[c.Name], fmt.Sprint(c.Check))
	}
	for name, list := range checks {
		if len(list) > 1 && slices.Contains(list, "[]") {
			t.Errorf("%s is allowed both with any arguments and with checked arguments", name)
		}
	}
	for _, name := range []string{
		"execve", "execveat", "fork", "vfork", "socket", "bind", "connect", "listen",
		"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_open", "pidfd_getfd", "open_by_handle_at",
		"io_uring_setup", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key",
		"mount", "umount2", "fsopen", "move_mount", "unshare", "setns", "chroot", "pivot_root", "init_module", "kexec_load",
		"setuid", "setgid", "setresuid", "setfsuid", "setgroups", "capset", "personality",
	} {
		if class, _ := p.Class(name, [6]uint64{}); class != Fatal {
			t.Errorf("%s is %v, want fatal", name, class)
		}
	}
	for name, want := range map[string]unix.Errno{
		"clone3": unix.ENOSYS, "openat2": unix.ENOSYS, "fchmodat2": unix.ENOSYS, "memfd_create": unix.ENOSYS, "seccomp": unix.ENOSYS,
		"linkat": unix.ENOSYS, "symlinkat": unix.ENOSYS, "mkdirat": unix.ENOSYS, "mknodat": unix.EPERM, "ioctl": unix.ENOTTY,
		"a call of a later kernel": unix.ENOSYS,
	} {
		if class, errno := p.Class(name, [6]uint64{}); class != Refused || errno != want {
			t.Errorf("%s is %v (%v), want refused (%v)", name, class, errno, want)
		}
	}
}

type args = [6]uint64

var pid = uint64(unix.Getpid())

// argumentCases are the cases of TestArguments.
var argumentCases = []struct {
	name string
	args args
	want Class
}{
	{"mmap", args{0, 4096, unix.PROT_READ | unix.PROT_WRITE}, Allowed},
	{"mmap", args{0, 4096, unix.PROT_READ | unix.PROT_EXEC}, Fatal},
	{"mprotect", args{0, 4096, unix.PROT_EXEC}, Fatal},
	{"pkey_mprotect", args{0, 4096, unix.PROT_EXEC}, Fatal},
	{"pkey_mprotect", args{0, 4096, unix.PROT_READ}, Refused},
	{"shmat", args{1, 0, 0o100000}, Fatal},
	{"shmat", args{1, 0, 0}, Refused},
	{"clone", args{0x3d0f00}, Allowed},                    // glibc
	{"clone", args{0x7d0f00}, Allowed},                    // musl
	{"clone", args{0x50f00}, Allowed},                     // Go
	{"clone", args{0x3d0f00 | unix.CLONE_NEWNS}, Refused}, // a thread in another namespace
	{"clone", args{0x3d0f00 | unix.CLONE_PTRACE}, Refused},
	{"clone", args{uint64(unix.SIGCHLD)}, Fatal},
	{"clone", args{unix.CLONE_NEWUSER}, Fatal},
	{"clone", args{unix.CLONE_VM | unix.CLONE_VFORK}, Fatal},
	{"tgkill", args{pid, 1, 6}, Allowed},
	{"tgkill", args{pid + 1, 1, 6}, Fatal},
	{"kill", args{pid, 6}, Allowed},
	{"kill", args{0, 9}, Fatal},
	{"kill", args{all, 9}, Fatal},
	{"prctl", args{unix.PR_SET_VMA}, Refused},
	{"prctl", args{unix.PR_SET_DUMPABLE, 1}, Refused},
	{"ioctl", args{0, unix.TCGETS}, Allowed},
	{"ioctl", args{0, unix.TIOCSTI}, Refused},
	{"fcntl", args{3, unix.F_OFD_SETLK}, Allowed},
	{"fcntl", args{3, unix.F_SETLK}, Allowed}, // the lock of kernels without open-file-description locks
	{"fcntl", args{3, unix.F_SETLK}, Allowed},
	{"fcntl", args{3, unix.F_SETFL, unix.O_NONBLOCK}, Allowed},
	{"fcntl", args{3, unix.F_SETFL, unix.O_ASYNC}, Refused},
	{"fcntl", args{3, unix.F_SETOWN, 1}, Refused},
	{"fcntl", args{3, unix.F_SETOWN_EX, 1}, Refused},
	{"fcntl", args{3, unix.F_SETSIG, 9}, Refused},
	{"fcntl", args{3, unix.F_SETLEASE, 0}, Refused},
	{"fcntl", args{3, unix.F_NOTIFY, 0}, Refused},
	{"fchmod", args{3, 0o640}, Allowed},
	{"fchmod", args{3, 0o4755}, Refused},
	{"fchmod", args{3, 0o2755}, Refused},
	{"fchmod", args{3, 0o1755}, Refused},
	{"fchmod", args{3, 0o104755}, Refused},
	{"openat", args{3, 0, unix.O_RDONLY, 0o7777}, Allowed}, // the mode is an undefined register
	{"openat", args{3, 0, unix.O_RDWR | unix.O_CREAT, 0o640}, Allowed},
	{"openat", args{3, 0, unix.O_RDWR | unix.O_CREAT, 0o4755}, Refused},
	{"openat", args{3, 0, unix.O_RDWR | unix.O_TMPFILE, 0o2755}, Refused},
	{"open", args{0, unix.O_RDWR | unix.O_CREAT, 0o4755}, Refused},
	{"creat", args{0, 0o4755}, Refused},
	{"socket", args{unix.AF_UNIX, unix.SOCK_STREAM}, Fatal},
	{"sendto", args{3, 0, 10, unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL}, Allowed},
	{"sendto", args{3, 0, 10, unix.MSG_DONTWAIT | unix.MSG_FASTOPEN}, Fatal},
	{"sendto", args{3, 0, 10, unix.MSG_DONTWAIT, 1, 16}, Refused},
	{"sendmsg", args{3, 0, unix.MSG_DONTWAIT}, Allowed},
	{"sendmsg", args{3, 0, unix.MSG_FASTOPEN}, Fatal},
	{"sendmmsg", args{3, 0, 1, unix.MSG_FASTOPEN}, Fatal},
}

// TestArguments checks the class of calls by their arguments.
func TestArguments(t *testing.T) {
	p := Plan(&config.Config{}, "/etc/swtpm/vm1.toml")
	for _, c := range argumentCases {
		if class, _ := p.Class(c.name, c.args); class != c.want {
			t.Errorf("%s%#x is %v, want %v", c.name, c.args, class, c.want)
		}
	}
}

// TestPlanOffline checks that a verb may do less than an emulator: it has no clients, and a verb
// that only reads cannot change files.
func TestPlanOffline(t *testing.T) {
	emulator := map[string]bool{"fchown": true}
	for _, uri := range []string{"dir:///st", "file:///image"} {
		p := Plan(&config.Config{State: config.State{Location: nv.ParseLocation(uri)}}, "")
		for _, c := range p.Calls() {
			emulator[c.Name] = true
		}
	}
	dir := t.TempDir()
	for _, uri := range []string{"dir://" + dir, "file://" + dir + "/image"} {
		for _, write := range []bool{false, true} {
			p := PlanOffline(&config.Config{State: config.State{Location: nv.ParseLocation(uri)}}, write, "/out/archive")
			seen := map[string]bool{}
			for _, c := range p.Calls() {
				if c.Why == "" || !emulator[c.Name] {
					t.Errorf("%s, %v: %+v has no reason, or is not a call of an emulator", uri, write, c)
				}
				if c.Name == "fchown" && len(c.Check) != 2 {
					t.Errorf("%+v is not checked", c)
				}
				seen[c.Name] = true
			}
			for _, name := range []string{"accept4", "recvmsg", "sendto", "sendmsg", "socket", "execve"} {
				if seen[name] {
					t.Errorf("%s, %v: %s is allowed", uri, write, name)
				}
			}
			for _, name := range []string{"execve", "socket", "setuid", "ptrace", "mount"} {
				if class, _ := p.Class(name, [6]uint64{}); class != Fatal {
					t.Errorf("%s, %v: %s is %v, want fatal", uri, write, name, class)
				}
			}
			for _, name := range []string{"renameat", "renameat2", "pwrite64", "ftruncate", "fchown"} {
				if seen[name] && !write {
					t.Errorf("%s: %s is allowed, although the verb only reads", uri, name)
				}
			}
			for _, place := range p.Files {
				if change := place.Access &^ (readFile | readDir); change != 0 && !write && (place.Path != "/out" || change != remove) {
					t.Errorf("%s: %+v is too much", uri, place)
				}
			}
		}
	}
}

// TestFiles checks which files are accessible.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	has := func(p Policy, path string, access uint64) {
		t.Helper()
		for _, place := range p.Files {
			if place.Path == path && place.Access == access && place.Why != "" {
				return
			}
		}
		t.Errorf("missing %q with access %#x in %+v", path, access, p.Files)
	}
	p := plan(t, "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path=/run/x/c", "--pid", "file=/run/y/pid")
	has(p, dir, wholeDir)
	has(p, "/etc/swtpm", readFile|readDir)
	has(p, "/run/x", remove)
	has(p, "/run/y", remove)
	has(plan(t, "--tpmstate", "backend-uri=file://"+dir+"/image"), dir, wholeDir)

	for _, where := range []string{"dir=" + dir + "/none", "backend-uri=file://" + dir + "/none/image"} {
		if p := plan(t, "--tpmstate", where); p.Absent != dir+"/none" {
			t.Errorf("%s: absent directory %q, want %q", where, p.Absent, dir+"/none")
		} else {
			has(p, dir, wholeDir)
		}
	}
	for _, p := range p.Files {
		if p.Path == "/" || p.Path == "/proc" || p.Access&unix.LANDLOCK_ACCESS_FS_EXECUTE != 0 {
			t.Errorf("%+v is too much", p)
		}
	}
}

// TestShared checks in which directories a TPM may not remove files, because the directories
// are shared.
func TestShared(t *testing.T) {
	for _, dir := range []string{"/", "/run", "/tmp", "/var", "/var/log", "/var/run", "/var/log/swtpm/libvirt/qemu", "/dev", "/etc", "/root", "/home/somebody", "/run/user/1000"} {
		if exists(dir) && !isShared(dir, nil, false) {
			t.Errorf("%s is not shared", dir)
		}
		if !exists(dir) && !belongsToSystem(dir) {
			t.Errorf("%s does not belong to the system", dir)
		}
	}
	if isShared("/run", nil, true) && !hasOthers("/run", nil) {
		t.Error("/run in a new root directory is shared")
	}
	for _, c := range []struct {
		name   string
		mode   os.FileMode
		file   string
		shared bool
	}{
		{"private", 0o700, "ctrl", false},
		{"readable", 0o755, "data.sock", false},
		{"notes of a user", 0o755, "notes.txt", false},
		{"writable by all", 0o777, "ctrl", false},
		{"sticky", 0o777 | os.ModeSticky, "ctrl", true},
		{"another TPM's pid file", 0o755, "vm2.pid", true},
		{"logs", 0o755, "vm2.log", true},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/"+c.file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, c.mode); err != nil {
			t.Fatal(err)
		}
		cfg := &config.Config{}
		cfg.Control.Listen = config.Endpoint{Kind: config.Unix, Path: dir + "/ctrl"}
		cfg.Interface.Server = config.Endpoint{Kind: config.Unix, Path: dir + "/data.sock"}
		if got := isShared(dir, ownFiles(cfg), false); got != c.shared {
			t.Errorf("%s: shared %v, want %v", c.name, got, c.shared)
		}
		p := Plan(cfg, "")
		if unremoved := len(p.Unremoved) == 2; unremoved != c.shared {
			t.Errorf("%s: %q is not removed, want %v", c.name, p.Unremoved, c.shared)
		}
	}
}
