package sandbox

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/swtpm-go/swtpm/internal/config"
)

// maxCalls is how many system calls a policy may have.
const maxCalls = 60

func plan(t *testing.T, args ...string) Policy {
	t.Helper()
	cfg, err := config.Classic("socket", args, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	return Plan(cfg, "/etc/swtpm/vm1.toml")
}

// TestCalls holds that the list is short, that each call says why it is there,
// that none is there by which one gets out, and that those that can do more than
// is needed are checked.
func TestCalls(t *testing.T) {
	for _, args := range [][]string{{}, {"--tpmstate", "backend-uri=file:///image", "--pcap", "file=p"}, {"--pcap", "file=p"}} {
		if n := len(plan(t, args...).Calls); n > maxCalls {
			t.Errorf("%v: %d system calls, want at most %d", args, n, maxCalls)
		}
	}
	many := &config.Config{State: config.State{URI: "file:///image"}, Interface: config.Interface{Type: "socket"}}
	many.Metrics.Listen.Kind = config.Unix
	if n := len(Plan(many, "/p").Calls); n > maxCalls {
		t.Errorf("an image with metrics: %d system calls, want at most %d", n, maxCalls)
	}
	p := plan(t, "--tpmstate", "dir="+t.TempDir())
	seen := map[string]Call{}
	for _, c := range p.Calls {
		if _, twice := seen[c.Name]; twice {
			t.Errorf("%s is there twice", c.Name)
		}
		if c.Why == "" {
			t.Errorf("%s has no reason", c.Name)
		}
		seen[c.Name] = c
	}
	for _, name := range []string{
		"execve", "execveat", "fork", "vfork", "clone3", "socket", "socketpair", "bind", "connect", "listen",
		"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_open", "pidfd_getfd", "open_by_handle_at",
		"kill", "tkill", "io_uring_setup", "bpf", "userfaultfd", "keyctl", "mount", "unshare", "setns", "chroot",
		"setuid", "setresuid", "capset", "seccomp", "personality", "memfd_create", "ioctl", "linkat", "symlinkat", "mkdirat", "mknodat",
	} {
		if _, there := seen[name]; there {
			t.Errorf("%s is allowed", name)
		}
	}
	want := map[string]Check{
		"mmap":     {2, unix.PROT_EXEC, 0},
		"mprotect": {2, unix.PROT_EXEC, 0},
		"clone":    {0, all, 0x3d0f00},
		"tgkill":   {0, all, uint64(unix.Getpid())},
		"prctl":    {0, all, 0x53564d41}, // "SVMA"
	}
	for name, check := range want {
		if c, ok := seen[name]; !ok || !slices.Equal(c.Check, []Check{check}) {
			t.Errorf("%s is checked by %+v, want %+v", name, c.Check, check)
		}
	}
}

// TestAtRest holds that a verb can do less than an emulator: it has no clients, and
// one that only tells what there is changes nothing.
func TestAtRest(t *testing.T) {
	emulator := map[string]bool{"fchown": true}
	for _, uri := range []string{"dir:///st", "file:///image"} {
		for _, c := range Plan(&config.Config{State: config.State{URI: uri}}, "").Calls {
			emulator[c.Name] = true
		}
	}
	dir := t.TempDir()
	for _, uri := range []string{"dir://" + dir, "file://" + dir + "/image"} {
		for _, write := range []bool{false, true} {
			p := AtRest(&config.Config{State: config.State{URI: uri}}, write, "/out/archive")
			seen := map[string]bool{}
			for _, c := range p.Calls {
				if seen[c.Name] || c.Why == "" || !emulator[c.Name] {
					t.Errorf("%s, %v: %+v is there twice, has no reason, or no emulator has it", uri, write, c)
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
			for _, name := range []string{"renameat", "renameat2", "pwrite64", "ftruncate", "fchown"} {
				if seen[name] && !write {
					t.Errorf("%s: %s is allowed, and nothing is written", uri, name)
				}
			}
			for _, place := range p.Places {
				if change := place.Access &^ (readFile | readDir); change != 0 && !write && (place.Path != "/out" || change != remove) {
					t.Errorf("%s: %+v is too much", uri, place)
				}
			}
		}
	}
}

// TestPlaces holds which files stay within reach.
func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	has := func(p Policy, path string, access uint64) {
		t.Helper()
		for _, place := range p.Places {
			if place.Path == path && place.Access == access && place.Why != "" {
				return
			}
		}
		t.Errorf("%q is not there with %#x: %+v", path, access, p.Places)
	}
	p := plan(t, "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path=/run/x/c", "--pid", "file=/run/y/pid")
	has(p, dir, wholeDir)
	has(p, "/etc/swtpm", readFile|readDir)
	has(p, "/run/x", remove)
	has(p, "/run/y", remove)
	has(plan(t, "--tpmstate", "backend-uri=file://"+dir+"/image"), dir, wholeDir)

	for _, where := range []string{"dir=" + dir + "/none", "backend-uri=file://" + dir + "/none/image"} {
		if p := plan(t, "--tpmstate", where); p.Later != dir+"/none" {
			t.Errorf("%s: what comes later is %q, want %q", where, p.Later, dir+"/none")
		} else {
			has(p, dir, wholeDir)
		}
	}
	for _, p := range p.Places {
		if p.Path == "/" || p.Path == "/proc" || p.Access&unix.LANDLOCK_ACCESS_FS_EXECUTE != 0 {
			t.Errorf("%+v is too much", p)
		}
	}
}
